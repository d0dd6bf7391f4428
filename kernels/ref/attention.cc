// Linked attention: for each read, the query is rotated by position - offset and attends to the segment's keys in their
// stored form; the partial results of a row are merged by their log-sum-exp. The mass of keys follows from the same
// scores.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ref/operations.h"
#include "kernels/ref/scalar.h"
#include "kernels/ref/segment_reader.h"

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

bool Reads(const AttentionBatch& batch, const KvRead& read) {
  return read.row_count > 0 && batch.segments[static_cast<size_t>(read.segment)].tokens > 0;
}

// Rotates the queries of rows [begin, end) to the offset of their read.
void TakeQueries(const Tensor& q, const AttentionParams& params, const AttentionBatch& batch, const KvRead& read,
                 int64_t begin, int64_t end, const Scratch& scratch) {
  const Rope& rope = *batch.ropes[static_cast<size_t>(params.rope)];
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t head = 0; head < params.heads; ++head) {
      double* query = scratch.Query(row, head);
      for (int64_t d = 0; d < params.head_dim; ++d) query[d] = Load(q, At(q, row, head, d));
      Rotate(rope, batch.positions[static_cast<size_t>(row)] - read.offset, rope.attention_factor, query);
    }
  }
}

int64_t TokenPosition(const KvSegment& segment, const KvRead& read, int64_t token) {
  return segment.positions != nullptr ? segment.positions[token] : read.offset + token;
}

void AttendRead(const LinkedAttentionArgs& args, const AttentionBatch& batch, const KvRead& read,
                const Scratch& scratch) {
  const AttentionParams& params = args.params;
  const KvSegment& segment = batch.segments[static_cast<size_t>(read.segment)];
  const int64_t dim = params.head_dim, group = params.heads / params.kv_heads;
  const int64_t row_end = read.row_begin + read.row_count;
  for (int64_t row = read.row_begin; row < row_end; ++row) {
    for (int64_t head = 0; head < params.heads; ++head) scratch.OfRead(row, head).Clear(dim);
  }
  TakeQueries(args.q, params, batch, read, read.row_begin, row_end, scratch);
  const SegmentReader reader(segment, args.layer, params.kv_heads, dim);
  for (int64_t kv_head = 0; kv_head < params.kv_heads; ++kv_head) {
    for (int64_t token = 0; token < segment.tokens; ++token) {
      const int64_t token_position = TokenPosition(segment, read, token);
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

// The mass that one token receives from rows [begin, end).
double TokenMass(const KeyMassArgs& args, const AttentionBatch& batch, const KvRead& read, int64_t token, int64_t begin,
                 int64_t end, const Scratch& scratch) {
  const AttentionParams& params = args.params;
  const KvSegment& segment = batch.segments[static_cast<size_t>(read.segment)];
  const SegmentReader reader(segment, args.layer, params.kv_heads, params.head_dim);
  const int64_t group = params.heads / params.kv_heads, token_position = TokenPosition(segment, read, token);
  double mass = 0;
  for (int64_t kv_head = 0; kv_head < params.kv_heads; ++kv_head) {
    reader.Read(kv_head, token, scratch.Key(), scratch.Value());
    for (int64_t row = begin; row < end; ++row) {
      if (!Sees(read, token, token_position, batch.positions[static_cast<size_t>(row)], params.window)) continue;
      for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const double lse = static_cast<double>(args.lse.as<const float>()[At(args.lse, row, head)]);
        mass += std::exp(Score(params, scratch.Query(row, head), scratch.Key()) - lse);
      }
    }
  }
  return mass;
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
    if (Reads(batch, read)) AttendRead(args, batch, read, scratch);
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

void KeyMass(const KeyMassArgs& args, const AttentionBatch& batch) {
  const Scratch scratch(args.workspace.data, static_cast<int64_t>(batch.positions.size()), args.params);
  float* mass = args.mass.as<float>();
  for (const KvRead& read : batch.reads) {
    const int64_t tokens = batch.segments[static_cast<size_t>(read.segment)].tokens;
    const int64_t begin = std::max(read.row_begin, args.row_begin);
    const int64_t end = std::min(read.row_begin + read.row_count, args.row_begin + args.row_count);
    if (begin < end) TakeQueries(args.q, args.params, batch, read, begin, end, scratch);
    for (int64_t token = 0; begin < end && token < tokens; ++token) {
      mass[token] += static_cast<float>(TokenMass(args, batch, read, token, begin, end, scratch));
    }
    mass += tokens;
  }
}

}  // namespace kvlink::kernels::ref
