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

// Query q attends to key k iff position(k) <= position(q), within the layer's window, and either segment(q) is 0 and k
// is not hidden, or segment(q) == segment(k).
struct MaskedToken {
  int32_t id = 0;        // ids >= vocab take row (id - vocab) of `extra_embeddings`
  int64_t position = 0;  // ascending; a token computed again has that of the hidden one which it replaces
  int64_t segment = 0;
  bool hidden = false;
};

// Returns the logits [wanted, vocab] of tokens (ascending indices).
absl::StatusOr<std::vector<float>> MaskedForward(const model::Weights& weights, absl::Span<const MaskedToken> tokens,
                                                 absl::Span<const float> extra_embeddings,
                                                 absl::Span<const int64_t> wanted);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_MASKED_FORWARD_H_
