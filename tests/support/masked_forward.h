// The oracle of linked attention: one forward pass of a whole prompt under the segment mask, in plain f64 loops over
// the model's weights. Shares no code with the backends except the rope frequencies.
#ifndef KVLINK_TESTS_SUPPORT_MASKED_FORWARD_H_
#define KVLINK_TESTS_SUPPORT_MASKED_FORWARD_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/files/weights.h"

namespace kvlink::testing {

struct MaskedToken {
  int32_t id = 0;        // ids >= vocab take row (id - vocab) of `extra_embeddings`
  int64_t position = 0;  // ascending
  // Query q attends to key k iff k <= q and (segment(q) == segment(k) or segment(q) == 0), within the layer's window.
  int64_t segment = 0;
};

// Returns the logits [wanted, vocab] of tokens (ascending indices).
absl::StatusOr<std::vector<float>> MaskedForward(const model::Weights& weights, absl::Span<const MaskedToken> tokens,
                                                 absl::Span<const float> extra_embeddings,
                                                 absl::Span<const int64_t> wanted);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_MASKED_FORWARD_H_
