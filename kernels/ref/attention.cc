// Linked attention: for each read, the query is rotated by position - offset and attends to the segment's keys in their
// stored form; the partial results of a row are merged by their log-sum-exp.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ref/operations.h"
#include "kernels/ref/scalar.h"

namespace kvlink::kernels::ref {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

// A running softmax-weighted sum: sum of exp(score - largest), and of exp(score - largest) * value.
struct Partial {
  double* state;  // [largest, sum, value[dim]]
  double& largest() const { return state[0]; }
  double& sum() const { return state[1]; }
  double* value() const { return state + 2; }

  void Clear(int64_t dim) const {
    std::fill(state, state + 2 + dim, 0.0);
    largest() = kNothing;
  }
  // Adds `sum` exponentials relative to `largest` with their weighted values.
  void Add(double other_largest, double other_sum, const double* other_value, int64_t dim) const {
    if (other_largest == kNothing) return;
    const double top = std::max(largest(), other_largest);
    const double keep = std::exp(largest() - top), take = std::exp(other_largest - top);
    for (int64_t d = 0; d < dim; ++d) value()[d] = value()[d] * keep + other_value[d] * take;
    sum() = sum() * keep + other_sum * take;
    largest() = top;
  }
};

// The workspace: one state per (row, head) for a read and for all of them, the rotated queries, a key and a value.
class Scratch {
 public:
  Scratch(void* data, int64_t rows, const AttentionParams& params)
      : heads_(params.heads), dim_(params.head_dim), data_(static_cast<double*>(data)), states_(rows * heads_) {}
  static int64_t Bytes(int64_t rows, const AttentionParams& params) {
    return (rows * params.heads * (2 * (2 + params.head_dim) + params.head_dim) + 2 * params.head_dim) *
           static_cast<int64_t>(sizeof(double));
  }
  Partial OfRead(int64_t row, int64_t head) const { return {data_ + (row * heads_ + head) * (2 + dim_)}; }
  Partial Merged(int64_t row, int64_t head) const { return {data_ + (states_ + row * heads_ + head) * (2 + dim_)}; }
  double* Query(int64_t row, int64_t head) const {
    return data_ + 2 * states_ * (2 + dim_) + (row * heads_ + head) * dim_;
  }
  double* Key() const { return Query(0, 0) + states_ * dim_; }
  double* Value() const { return Key() + dim_; }

 private:
  const int64_t heads_;
  const int64_t dim_;
  double* const data_;
  const int64_t states_;
};

// Reads keys and values of one segment and layer.
class SegmentReader {
 public:
  SegmentReader(const KvSegment& segment, int64_t layer, int64_t kv_heads, int64_t dim)
      : segment_(segment),
        data_(segment.layer_data[static_cast<size_t>(layer)]),
        shape_{segment.codec, kv_heads, dim, std::max<int64_t>(segment.tokens, 1)} {}

  void Read(int64_t head, int64_t token, double* key, double* value) const {
    const int64_t block = token / kBlockTokens, in_block = token % kBlockTokens;
    const int64_t held = segment_.padded_blocks ? kBlockTokens : shape_.block_tokens(block);
    const int64_t at = segment_.block_table != nullptr ? segment_.block_table[block] : block;
    const std::byte* base = data_ + head * segment_.head_stride + at * segment_.block_stride;
    const std::byte* scales = base + shape_.scale_offset(held);
    ReadRow(base + in_block * shape_.row_bytes(), scales + in_block * 4, key);
    ReadRow(base + shape_.value_offset(held) + in_block * shape_.row_bytes(), scales + (held + in_block) * 4, value);
  }

 private:
  void ReadRow(const std::byte* row, const std::byte* scale, double* out) const {
    const int64_t dim = shape_.head_dim;
    switch (segment_.codec) {
      case Codec::kRawF32:
        for (int64_t d = 0; d < dim; ++d) out[d] = static_cast<double>(LoadBytes<float>(row + 4 * d));
        break;
      case Codec::kRawBf16:
        for (int64_t d = 0; d < dim; ++d) out[d] = static_cast<double>(Bf16ToFloat(LoadBytes<uint16_t>(row + 2 * d)));
        break;
      default: {
        const double factor = static_cast<double>(LoadBytes<float>(scale));
        for (int64_t d = 0; d < dim; ++d) out[d] = factor * static_cast<double>(LoadBytes<int8_t>(row + d));
      }
    }
  }
  const KvSegment& segment_;
  const std::byte* const data_;
  const SlabShape shape_;
};

bool Sees(const KvRead& read, int64_t token, int64_t token_position, int64_t position, int64_t window) {
  if (token_position > position || (window > 0 && token_position <= position - window)) return false;
  return read.hidden == nullptr || ((read.hidden[token / 64] >> (token % 64)) & 1) == 0;
}

double Score(const AttentionParams& params, const double* query, const double* key) {
  double dot = 0;
  for (int64_t d = 0; d < params.head_dim; ++d) dot += query[d] * key[d];
  const double score = dot * static_cast<double>(params.scale);
  const double cap = static_cast<double>(params.softcap);
  return cap > 0 ? cap * std::tanh(score / cap) : score;
}

void AttendRead(const LinkedAttentionArgs& args, const AttentionBatch& batch, const KvRead& read,
                const Scratch& scratch) {
  const AttentionParams& params = args.params;
  const KvSegment& segment = batch.segments[static_cast<size_t>(read.segment)];
  const Rope& rope = *batch.ropes[static_cast<size_t>(params.rope)];
  const int64_t dim = params.head_dim, group = params.heads / params.kv_heads;
  const int64_t row_end = read.row_begin + read.row_count;
  for (int64_t row = read.row_begin; row < row_end; ++row) {
    for (int64_t head = 0; head < params.heads; ++head) {
      scratch.OfRead(row, head).Clear(dim);
      double* query = scratch.Query(row, head);
      for (int64_t d = 0; d < dim; ++d) query[d] = Load(args.q, At(args.q, row, head, d));
      Rotate(rope, batch.positions[static_cast<size_t>(row)] - read.offset, rope.attention_factor, query);
    }
  }
  const SegmentReader reader(segment, args.layer, params.kv_heads, dim);
  for (int64_t kv_head = 0; kv_head < params.kv_heads; ++kv_head) {
    for (int64_t token = 0; token < segment.tokens; ++token) {
      const int64_t token_position = segment.positions != nullptr ? segment.positions[token] : read.offset + token;
      reader.Read(kv_head, token, scratch.Key(), scratch.Value());
      for (int64_t row = read.row_begin; row < row_end; ++row) {
        if (!Sees(read, token, token_position, batch.positions[static_cast<size_t>(row)], params.window)) continue;
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
          scratch.OfRead(row, head).Add(Score(params, scratch.Query(row, head), scratch.Key()), 1, scratch.Value(),
                                        dim);
        }
      }
    }
  }
  for (int64_t row = read.row_begin; row < row_end; ++row) {
    for (int64_t head = 0; head < params.heads; ++head) {
      const Partial partial = scratch.OfRead(row, head);
      scratch.Merged(row, head).Add(partial.largest(), partial.sum(), partial.value(), dim);
    }
  }
}

}  // namespace

int64_t AttentionWorkspaceBytes(int64_t rows, const AttentionParams& params) { return Scratch::Bytes(rows, params); }

void LinkedAttention(const LinkedAttentionArgs& args, const AttentionBatch& batch) {
  const AttentionParams& params = args.params;
  const int64_t rows = static_cast<int64_t>(batch.positions.size()), dim = params.head_dim;
  const Scratch scratch(args.workspace.data, rows, params);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < params.heads; ++head) scratch.Merged(row, head).Clear(dim);
  }
  for (const KvRead& read : batch.reads) {
    if (read.row_count > 0 && batch.segments[static_cast<size_t>(read.segment)].tokens > 0)
      AttendRead(args, batch, read, scratch);
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < params.heads; ++head) {
      const Partial merged = scratch.Merged(row, head);
      const double lse = merged.largest() == kNothing ? kNothing : merged.largest() + std::log(merged.sum());
      if (args.lse.data != nullptr) args.lse.as<float>()[At(args.lse, row, head)] = static_cast<float>(lse);
      // A sink adds an exponential but no value: the result shrinks by sigmoid(lse - sink).
      double share = 1;
      if (params.sinks != nullptr) share = 1 / (1 + std::exp(static_cast<double>(params.sinks[head]) - lse));
      for (int64_t d = 0; d < dim; ++d) {
        const double value = lse == kNothing ? 0 : merged.value()[d] / merged.sum() * share;
        Store(args.out, At(args.out, row, head * dim + d), value);
      }
    }
  }
}

}  // namespace kvlink::kernels::ref
