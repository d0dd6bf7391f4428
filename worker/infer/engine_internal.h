// Shared by generator.cc and forward.cc. Private to worker/infer.
#ifndef KVLINK_WORKER_INFER_ENGINE_INTERNAL_H_
#define KVLINK_WORKER_INFER_ENGINE_INTERNAL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "worker/infer/generator.h"

namespace kvlink::infer {

struct Generator::Call {
  explicit Call(const Limits& limits) : deadline(SteadyNow() + limits.timeout), cancelled(limits.cancelled) {}
  absl::Status Check() const {
    if (cancelled && cancelled()) return absl::CancelledError("the request was cancelled");
    if (SteadyNow() >= deadline) return absl::DeadlineExceededError("the request's time ran out");
    return absl::OkStatus();
  }
  const absl::Time deadline;
  const std::function<bool()> cancelled;
};

struct Generator::Rows {
  Conversation* conversation = nullptr;
  absl::Span<const int32_t> tokens;
  absl::Span<const int64_t> positions;
  std::vector<int64_t> slots;
  bool sample = true;                    // sample the token after the last row
  std::vector<float>* scores = nullptr;  // logits of every row, appended
};

struct Generator::Context {
  std::unique_ptr<model::ForwardContext> forward;
  std::unique_ptr<kernels::Stream> stream;
  kernels::Buffer sampling;  // workspace of Sample
  kernels::Buffer sampled;   // ids
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_ENGINE_INTERNAL_H_
