// Shared by generator.cc, documents.cc, prefill.cc, pass.cc, forward.cc and sampling.cc. Private to worker/infer.
#ifndef KVLINK_WORKER_INFER_ENGINE_INTERNAL_H_
#define KVLINK_WORKER_INFER_ENGINE_INTERNAL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "worker/infer/generator.h"

namespace kvlink::infer {

struct Generator::Call {
  explicit Call(const Limits& limits) : deadline(SteadyNow() + limits.timeout), cancelled(limits.cancelled) {}
  absl::Status Check() const {
    if (cancelled && cancelled()) return absl::CancelledError("the request was cancelled");
    if (SteadyNow() >= deadline) return absl::DeadlineExceededError("the request timed out");
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
  absl::Status status;                   // an error: they are not in the pass, or it failed
  bool lacks_pages = false;              // Work
  bool lapsed = false;                   // Work
  bool sample = true;                    // sample the token after the last row
  SampledToken sampled;                  // that one, if the pass succeeds
  std::vector<float>* scores = nullptr;  // logits of every row, appended; of a pass of one conversation
  // Of rows that are observed, which run alone in a pass without sampling.
  link::Observe observe = link::Observe::kNothing;
  int64_t layers = 0;                  // ForwardBatch::layers
  int64_t first_observer = 0;          // kKeyMass: the row from which on they observe
  link::Observed* observed = nullptr;  // added to (kKeyMass) or written (kDeviation) if the pass succeeds
};

struct Generator::Context {
  std::unique_ptr<model::ForwardContext> forward;
  std::unique_ptr<kernels::Stream> stream;
  kernels::Buffer sampling;  // workspace of Sample
  kernels::Buffer sampled;   // its results
  kernels::Buffer observed;  // rows' tokens, slots and deviations
};

// Makes scratch memory at least so large. Nothing may use it still.
inline absl::Status Grow(kernels::Backend& backend, int64_t bytes, kernels::Buffer* buffer) {
  if (buffer->bytes() >= bytes) return absl::OkStatus();
  buffer->reset();
  KVLINK_ASSIGN_OR_RETURN(*buffer, backend.Allocate(bytes));
  return absl::OkStatus();
}

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_ENGINE_INTERNAL_H_
