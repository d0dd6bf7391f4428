// Attention by its definition in f64: every score, one softmax, no splits. Slow on purpose.
#include "kernels/ref/masked_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvlink::kernels {
namespace {

// `count` rows of `heads` heads, each rotated at its token's position, attention factor included.
std::vector<double> RotateAll(const Rope& rope, absl::Span<const MaskedToken> tokens, absl::Span<const float> rows,
                              int64_t heads, int64_t dim) {
  std::vector<double> rotated(rows.begin(), rows.end());
  const size_t half = rope.inv_freq.size();
  for (size_t token = 0; token < tokens.size(); ++token) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(tokens[token].position) * rope.inv_freq[i];
      const double cosine = std::cos(angle), sine = std::sin(angle);
      for (int64_t head = 0; head < heads; ++head) {
        double* row = rotated.data() + (static_cast<int64_t>(token) * heads + head) * dim;
        const double first = row[i], second = row[i + half];
        row[i] = rope.attention_factor * (first * cosine - second * sine);
        row[i + half] = rope.attention_factor * (first * sine + second * cosine);
      }
    }
  }
  return rotated;
}

}  // namespace

bool MaskedSees(const MaskedToken& query, const MaskedToken& key, int64_t window) {
  if (key.position > query.position) return false;
  if (window > 0 && query.position - key.position >= window) return false;
  return query.segment == 0 ? !key.hidden : key.segment == query.segment;
}

MaskedAttentionResult MaskedAttention(const AttentionParams& params, const Rope& rope,
                                      absl::Span<const MaskedToken> queries, absl::Span<const float> query_values,
                                      absl::Span<const MaskedToken> tokens, absl::Span<const float> key_values,
                                      absl::Span<const float> value_values) {
  const int64_t heads = params.heads, kv_heads = params.kv_heads, dim = params.head_dim;
  const std::vector<double> q = RotateAll(rope, queries, query_values, heads, dim);
  const std::vector<double> k = RotateAll(rope, tokens, key_values, kv_heads, dim);
  MaskedAttentionResult result;
  result.out.assign(queries.size() * static_cast<size_t>(heads * dim), 0.0);
  result.lse.assign(queries.size() * static_cast<size_t>(heads), -std::numeric_limits<double>::infinity());
  result.mass.assign(queries.size() * tokens.size(), 0.0);
  std::vector<double> scores(tokens.size());
  for (size_t row = 0; row < queries.size(); ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t kv_head = head / (heads / kv_heads);
      const int64_t index = static_cast<int64_t>(row) * heads + head;
      double largest = -std::numeric_limits<double>::infinity();
      for (size_t t = 0; t < tokens.size(); ++t) {
        scores[t] = -std::numeric_limits<double>::infinity();
        if (!MaskedSees(queries[row], tokens[t], params.window)) continue;
        const double* key = k.data() + (static_cast<int64_t>(t) * kv_heads + kv_head) * dim;
        double score = 0;
        for (int64_t d = 0; d < dim; ++d) score += q[static_cast<size_t>(index * dim + d)] * key[d];
        score *= static_cast<double>(params.scale);
        const double cap = static_cast<double>(params.softcap);
        if (cap > 0) score = cap * std::tanh(score / cap);
        scores[t] = score;
        largest = std::max(largest, score);
      }
      if (largest == -std::numeric_limits<double>::infinity()) continue;
      double sum = 0;
      double* out = result.out.data() + index * dim;
      for (size_t t = 0; t < tokens.size(); ++t) {
        const double weight = std::exp(scores[t] - largest);
        scores[t] = weight;
        if (weight == 0) continue;
        sum += weight;
        const float* value = value_values.data() + (static_cast<int64_t>(t) * kv_heads + kv_head) * dim;
        for (int64_t d = 0; d < dim; ++d) out[d] += weight * static_cast<double>(value[d]);
      }
      const double sink = params.sinks == nullptr ? 0 : std::exp(static_cast<double>(params.sinks[head]) - largest);
      for (int64_t d = 0; d < dim; ++d) out[d] /= sum + sink;
      for (size_t t = 0; t < tokens.size(); ++t) result.mass[row * tokens.size() + t] += scores[t] / sum;
      result.lse[static_cast<size_t>(index)] = largest + std::log(sum);
    }
  }
  return result;
}

}  // namespace kvlink::kernels
