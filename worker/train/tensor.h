// The one header of LibTorch that this project includes: tensors and what differentiates them, without modules,
// optimizers and data loaders, which take long to compile and are not used.
//
// LibTorch throws. Guarded() is the boundary: nothing of it leaves worker/train.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_TRAIN_TENSOR_H_
#define KVLINK_WORKER_TRAIN_TENSOR_H_

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <exception>
#include <new>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvlink::train {

// Runs a function that returns a status. What LibTorch throws becomes a status: RESOURCE_EXHAUSTED where memory ran
// out, INTERNAL otherwise.
template <typename F>
absl::Status Guarded(const F& run) {
  try {
    return run();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the device has no memory left: ", error.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory left; use fewer --tokens, or a lower --recompute-above");
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    // The CPU's allocator has no type of its own.
    if (what.find("not enough memory") != std::string::npos ||
        what.find("can't allocate memory") != std::string::npos) {
      return absl::ResourceExhaustedError("no memory left; use fewer --tokens, or a lower --recompute-above");
    }
    return absl::InternalError(absl::StrCat("LibTorch: ", what));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("LibTorch: ", error.what()));
  }
}

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_TENSOR_H_
