// The independent oracle of linked attention: one softmax over explicit tokens under the segment mask, keys and queries
// rotated to their global positions, everything in f64. It has no notion of segment storage, shifting or merging.
//
// The rule. A token belongs to a document (segment >= 1) or is fresh (segment 0: system,
// markers, links, question, answer, and tokens recomputed inside a document, which keep their global position). With q
// at or after k, and k inside q's window:
//   q fresh                  sees k, unless k is hidden
//   q of a document          sees k of the same document, hidden or not: cached tokens keep the cached view
// Thread-safety: pure functions.
#ifndef KVLINK_KERNELS_REF_MASKED_ATTENTION_H_
#define KVLINK_KERNELS_REF_MASKED_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

struct MaskedToken {
  int64_t position = 0;
  int32_t segment = 0;  // 0: fresh
  bool hidden = false;  // a cached position that a recomputed token replaces
};

bool MaskedSees(const MaskedToken& query, const MaskedToken& key, int64_t window);

// queries: unrotated [queries.size()][H][D]; keys: unrotated, values: [tokens.size()][G][D]. `sinks` of params apply.
struct MaskedAttentionResult {
  std::vector<double> out;  // [queries][H][D]; 0 for a query that sees nothing
  std::vector<double> lse;  // [queries][H], without the sink; -inf for a query that sees nothing
  // [queries][tokens], summed over heads: the share of the query's attention that a token receives, without the sink.
  std::vector<double> mass;
};
MaskedAttentionResult MaskedAttention(const AttentionParams& params, const Rope& rope,
                                      absl::Span<const MaskedToken> queries, absl::Span<const float> query_values,
                                      absl::Span<const MaskedToken> tokens, absl::Span<const float> key_values,
                                      absl::Span<const float> value_values);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_REF_MASKED_ATTENTION_H_
