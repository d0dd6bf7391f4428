// Sampling of one row of logits: the definition shared by the host backends.
//
// First a row's adjustments apply: bias, repetition, penalty (logit_adjustment.h), then what is not allowed becomes
// -inf. The rest knows only the adjusted logits. Tokens with a logit above -inf (NaN counts as -inf) weigh exp((logit -
// largest) / temperature), in f64, and are ranked by logit, ties by lower id. Filters:
//   top_k  keeps the first k ranks
//   top_p  of these, keeps the shortest prefix whose weight reaches top_p of their total; at least one
//   min_p  of these, keeps weights of at least min_p times the largest
// The token is found by walking the kept tokens in ascending id until the running weight exceeds u times the total,
// with u = PhiloxUniform(seed, position).
#ifndef KVLINK_KERNELS_SAMPLING_H_
#define KVLINK_KERNELS_SAMPLING_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

struct SampleCandidate {
  float logit;
  int32_t id;
};

// The logits that a row is sampled from. `out` has as many as `logits`.
void AdjustLogits(absl::Span<const float> logits, const RowAdjustments& adjustments, absl::Span<float> out);

// Rows with adjustments.
int64_t AdjustedRows(const SampleArgs& args);

// Returns the token, or nullopt if no logit is above -inf. `scratch` has at least logits.size() elements (unused when
// temperature is 0). O(vocab + kept * log(vocab)). Thread-safe; does not allocate.
std::optional<int32_t> SampleRow(absl::Span<const float> logits, const SampleParams& params,
                                 absl::Span<SampleCandidate> scratch);

// The results of args.rows[index].
void LogprobsOf(const LogprobsArgs& args, int64_t index);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_SAMPLING_H_
