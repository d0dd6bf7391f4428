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

// What a pass computes besides logits.
struct MaskedTrace {
  std::vector<int64_t> observers;  // in: indices of wanted tokens
  int64_t layer = 0;               // in
  std::vector<double> mass;        // [tokens] attention that the observers give, summed over them, heads and layers
  std::vector<double> keys;        // [tokens, kv_heads * head_dim] of the layer, rotated to their positions
  std::vector<double> values;
};

// Returns the logits [wanted, vocab] of tokens (ascending indices).
absl::StatusOr<std::vector<float>> MaskedForward(const model::Weights& weights, absl::Span<const MaskedToken> tokens,
                                                 absl::Span<const float> extra_embeddings,
                                                 absl::Span<const int64_t> wanted, MaskedTrace* trace = nullptr);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_MASKED_FORWARD_H_
