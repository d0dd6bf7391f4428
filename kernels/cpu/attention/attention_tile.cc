// One tile against one split: rotates queries to the read's offset, masks, and keeps a running softmax per lane.
#include "kernels/cpu/attention/attention_tile.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/bf16.h"
#include "kernels/cpu/rows_simd.h"

namespace kvlink::kernels::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

// Scores are in log2 units, unless a softcap needs natural ones.
float ScoreScale(const AttentionParams& params) { return params.softcap > 0 ? params.scale : params.scale * kLog2E; }

// Query head `head` of `row` as f32, rotated to the row's position and scaled; to[dim].
void TakeQuery(const CpuPlan& plan, const LinkedAttentionArgs& args, int64_t row, int64_t head, float* to) {
  const AttentionParams& params = args.params;
  const int64_t dim = params.head_dim, half = plan.Half(params.rope);
  const int64_t at = row * args.q.strides[0] + head * args.q.strides[1];
  float q[4096];
  if (args.q.dtype == Dtype::kBf16) {
    GetRowKernels().widen(args.q.as<const uint16_t>() + at, dim, q);
  } else {
    std::memcpy(q, args.q.as<const float>() + at, static_cast<size_t>(dim) * 4);
  }
  const float scale = ScoreScale(params);
  const float* cosine = plan.RowCosine(params.rope, row);
  const float* sine = plan.RowSine(params.rope, row);
  for (int64_t i = 0; i < half; ++i) {
    to[i] = (q[i] * cosine[i] - q[i + half] * sine[i]) * scale;
    to[i + half] = (q[i + half] * cosine[i] + q[i] * sine[i]) * scale;
  }
  for (int64_t i = 2 * half; i < dim; ++i) to[i] = q[i] * scale;
}

void WriteOut(const LinkedAttentionArgs& args, int64_t row, int64_t head, const float* values, int64_t stride) {
  const int64_t dim = args.params.head_dim, at = row * args.out.strides[0] + head * dim;
  if (args.out.dtype == Dtype::kBf16) {
    uint16_t* out = args.out.as<uint16_t>() + at;
    for (int64_t i = 0; i < dim; ++i) out[i] = FloatToBf16(values[i * stride]);
  } else {
    float* out = args.out.as<float>() + at;
    for (int64_t i = 0; i < dim; ++i) out[i] = values[i * stride];
  }
}

void WriteLse(const LinkedAttentionArgs& args, int64_t row, int64_t head, float lse) {
  if (args.lse.data == nullptr) return;
  args.lse.as<float>()[row * args.lse.strides[0] + head * args.lse.strides[1]] = lse;
}

// The first token of the read within the row's window.
int64_t WindowBegin(const CpuPlan& plan, const KvRead& read, int64_t row, int64_t window) {
  if (window == 0) return 0;
  const KvSegment& segment = plan.batch().segments[read.segment];
  const int64_t before = plan.batch().positions[row] - window;  // the last position outside the window
  if (segment.positions == nullptr) return std::clamp<int64_t>(before + 1 - read.offset, 0, segment.tokens);
  return std::upper_bound(segment.positions, segment.positions + segment.tokens, before) - segment.positions;
}

}  // namespace

WideTile::WideTile(const CpuPlan& plan, const LinkedAttentionArgs& args, const AttentionSizes& sizes, int64_t max_rows,
                   MultiplyTiles tiles, Arena& arena)
    : plan_(plan), args_(args), sizes_(sizes), kernels_(GetAttentionKernels()), tiled_(tiles, sizes, max_rows, arena) {
  const int64_t panels = sizes.panels(max_rows);
  base_ = arena.Take<float>(panels * sizes.dim * sizes.panel);
  turned_ = arena.Take<float>(panels * sizes.dim * sizes.panel);
  scores_ = arena.Take<float>(kSplitTokens * sizes.panel);
  keys_ = arena.Take<float>(kSplitTokens * sizes.padded);
  values_ = arena.Take<float>(kSplitTokens * sizes.padded);
  lo_ = arena.Take<int32_t>(panels * sizes.panel);
  hi_ = arena.Take<int32_t>(panels * sizes.panel);
  ranges_ = arena.Take<Range>(panels);
}

void WideTile::Begin(const CpuPlan::Group& group, int64_t row_begin, int64_t rows, int64_t kv_head) {
  group_ = &group;
  row_begin_ = row_begin;
  rows_ = rows;
  kv_head_ = kv_head;
  panels_ = sizes_.panels(rows);
  float query[4096];
  for (int64_t p = 0; p < panels_; ++p) {
    const int64_t lanes = width(p), used = UsedLanes(p);
    float* to = base_ + p * sizes_.dim * sizes_.panel;
    for (int64_t i = 0; i < lanes; ++i) {
      if (i < used) {
        TakeQuery(plan_, args_, Row(p, i), Head(p, i), query);
      } else {
        std::fill_n(query, sizes_.dim, 0.0f);
      }
      for (int64_t d = 0; d < sizes_.dim; ++d) to[d * lanes + i] = query[d];
    }
  }
}

void WideTile::BeginRead(const CpuPlan::GroupRead& group_read) {
  const KvRead& read = plan_.batch().reads[group_read.read];
  const int rope = args_.params.rope;
  queries_ = base_;
  if (read.offset != 0) {
    for (int64_t p = 0; p < panels_; ++p) {
      const int64_t at = p * sizes_.dim * sizes_.panel;
      kernels_.turn_back(base_ + at, plan_.OffsetCosine(rope, group_read.read), plan_.OffsetSine(rope, group_read.read),
                         plan_.Half(rope), sizes_.dim, vectors(p), turned_ + at);
    }
    queries_ = turned_;
  }
  if (tiled_.Takes(Segment(group_read))) {
    for (int64_t p = 0; p < panels_; ++p) {
      tiled_.TakeQueries(p, queries_ + p * sizes_.dim * sizes_.panel, width(p));
    }
  }
  const int32_t* ends = plan_.ends().data() + group_read.end_begin + (row_begin_ - group_->row_begin);
  for (int64_t p = 0; p < panels_; ++p) {
    Range range{std::numeric_limits<int64_t>::max(), 0, std::numeric_limits<int64_t>::max(), 0};
    int64_t row = -1;
    for (int64_t i = 0; i < width(p); ++i) {
      const int64_t at = p * sizes_.panel + i;
      const int64_t lane_row = std::min(at / sizes_.group, rows_ - 1);  // lanes beyond the last repeat it
      if (lane_row == row) {
        lo_[at] = lo_[at - 1];
        hi_[at] = hi_[at - 1];
        continue;
      }
      row = lane_row;
      lo_[at] = static_cast<int32_t>(WindowBegin(plan_, read, row_begin_ + row, args_.params.window));
      hi_[at] = ends[row];
      range.min_lo = std::min<int64_t>(range.min_lo, lo_[at]);
      range.max_lo = std::max<int64_t>(range.max_lo, lo_[at]);
      range.min_hi = std::min<int64_t>(range.min_hi, hi_[at]);
      range.max_hi = std::max<int64_t>(range.max_hi, hi_[at]);
    }
    ranges_[p] = range;
  }
}

bool WideTile::BeginSplit(const CpuPlan::GroupRead& group_read, int64_t split, bool values) {
  const KvSegment& segment = Segment(group_read);
  int64_t begin = (split + 1) * kSplitTokens, end = split * kSplitTokens;
  for (int64_t p = 0; p < panels_; ++p) {
    begin = std::min(begin, std::max(split * kSplitTokens, ranges_[p].min_lo));
    end = std::max(end, std::min((split + 1) * kSplitTokens, ranges_[p].max_hi));
  }
  if (begin >= end) return false;
  const SegmentReader reader(segment, args_.layer, kv_head_, sizes_);
  for (int64_t block = begin / kBlockTokens; block * kBlockTokens < end; ++block) {
    const int64_t in_split = block - split * (kSplitTokens / kBlockTokens);
    const int64_t count = std::min(kBlockTokens, end - block * kBlockTokens);
    if (tiled_.Takes(segment)) {
      tiled_.TakeBlock(reader, block, in_split, count, values);
      continue;
    }
    const int64_t at = in_split * kBlockTokens * sizes_.padded;
    key_rows_[in_split] = reader.Rows(block, 0, count, /*values=*/false, /*whole_vectors=*/false, keys_ + at);
    if (!values) continue;
    value_rows_[in_split] = reader.Rows(block, 0, count, /*values=*/true, /*whole_vectors=*/false, values_ + at);
  }
  return true;
}

const float* WideTile::ComputeWeights(const CpuPlan::GroupRead& group_read, int64_t split, int64_t p, int64_t begin,
                                      int64_t end, float* partial) {
  const int count = vectors(p);
  const float* q = queries_ + p * sizes_.dim * sizes_.panel;
  float* scores = scores_;
  if (tiled_.Takes(Segment(group_read))) {
    const int64_t split_begin = split * kSplitTokens;
    scores = tiled_.Scores(p, begin - split_begin, end - split_begin, width(p), scores_);
  } else {
    EachBlock(split, begin, end, width(p), [&](int64_t block, int64_t first, int64_t tokens, float* to) {
      const F32Rows& rows = key_rows_[block];
      kernels_.scores(q, rows.data + first * rows.stride, rows.stride, tokens, sizes_.dim, count, to);
    });
  }
  const Range& range = ranges_[p];
  ScoreMask mask;
  mask.hidden = plan_.batch().reads[group_read.read].hidden;
  mask.first = begin;
  if (begin < range.max_lo || end > range.min_hi) {
    mask.lo = lo_ + p * sizes_.panel;
    mask.hi = hi_ + p * sizes_.panel;
  }
  kernels_.softmax(scores, end - begin, mask, args_.params.softcap, count, partial, partial + width(p));
  return scores;
}

void WideTile::ComputePanel(const CpuPlan::GroupRead& group_read, int64_t split, int64_t p, int64_t begin, int64_t end,
                            float* partial) {
  ComputeWeights(group_read, split, p, begin, end, partial);
  float* sums = partial + 2 * width(p);
  if (tiled_.Takes(Segment(group_read))) {
    const int64_t split_begin = split * kSplitTokens;
    tiled_.Values(scores_, begin - split_begin, end - split_begin, width(p), sums);
    return;
  }
  bool accumulate = false;
  EachBlock(split, begin, end, width(p), [&](int64_t block, int64_t first, int64_t tokens, const float* weights) {
    const F32Rows& rows = value_rows_[block];
    kernels_.values(weights, rows.data + first * rows.stride, rows.stride, tokens, sizes_.dim, vectors(p), accumulate,
                    sums);
    accumulate = true;
  });
}

// A lane that sees nothing, or is no row, has no share.
void WideTile::ToShares(int64_t p, float* largest) const {
  const int64_t used = UsedLanes(p);
  for (int64_t i = 0; i < width(p); ++i) {
    if (i >= used || largest[i] == kNothing) {
      largest[i] = 0;
      continue;
    }
    const float lse = args_.lse.as<const float>()[Row(p, i) * args_.lse.strides[0] + Head(p, i) * args_.lse.strides[1]];
    largest[i] = std::exp2(largest[i] - lse * kLog2E);
  }
}

void WideTile::Clear(float* state, int64_t p) const {
  std::fill_n(state, width(p), kNothing);
  std::fill_n(state + width(p), (sizes_.dim + 1) * width(p), 0.0f);
}

void WideTile::Finish(int64_t p, float* state) const {
  const int64_t lanes = width(p), count = UsedLanes(p);
  float sinks[64] = {};
  const bool has_sinks = args_.params.sinks != nullptr;
  for (int64_t i = 0; has_sinks && i < count; ++i) sinks[i] = args_.params.sinks[Head(p, i)] * kLog2E;
  kernels_.finish(state, has_sinks ? sinks : nullptr, sizes_.dim, vectors(p));
  for (int64_t i = 0; i < count; ++i) {
    WriteOut(args_, Row(p, i), Head(p, i), state + 2 * lanes + i, lanes);
    WriteLse(args_, Row(p, i), Head(p, i), state[i]);
  }
}

NarrowTile::NarrowTile(const CpuPlan& plan, const LinkedAttentionArgs& args, const AttentionSizes& sizes, Arena& arena)
    : plan_(plan), args_(args), sizes_(sizes), kernels_(GetAttentionKernels()) {
  base_ = arena.Take<float>(sizes.group * sizes.padded);
  turned_ = arena.Take<float>(sizes.group * sizes.padded);
  scores_ = arena.Take<float>(sizes.group * kSplitTokens);
  rows_ = arena.Take<float>(kBlockTokens * sizes.padded);
}

void NarrowTile::Begin(const CpuPlan::Group& group, int64_t kv_head) {
  row_ = group.row_begin;
  kv_head_ = kv_head;
  for (int64_t g = 0; g < sizes_.group; ++g) {
    float* to = base_ + g * sizes_.padded;
    TakeQuery(plan_, args_, row_, kv_head * sizes_.group + g, to);
    std::fill(to + sizes_.dim, to + sizes_.padded, 0.0f);
  }
}

void NarrowTile::BeginRead(const CpuPlan::GroupRead& group_read) {
  queries_ = base_;
  if (plan_.batch().reads[group_read.read].offset == 0) return;
  const int rope = args_.params.rope;
  const int64_t half = plan_.Half(rope);
  const float* cosine = plan_.OffsetCosine(rope, group_read.read);
  const float* sine = plan_.OffsetSine(rope, group_read.read);
  for (int64_t g = 0; g < sizes_.group; ++g) {
    const float* q = base_ + g * sizes_.padded;
    float* to = turned_ + g * sizes_.padded;
    for (int64_t i = 0; i < half; ++i) {
      to[i] = q[i] * cosine[i] + q[i + half] * sine[i];
      to[i + half] = q[i + half] * cosine[i] - q[i] * sine[i];
    }
    std::copy(q + 2 * half, q + sizes_.padded, to + 2 * half);
  }
  queries_ = turned_;
}

void NarrowTile::Split(const CpuPlan::GroupRead& group_read, int64_t split, float* partial) {
  const KvRead& read = plan_.batch().reads[group_read.read];
  const int64_t begin = std::max(split * kSplitTokens, WindowBegin(plan_, read, row_, args_.params.window));
  const int64_t end = std::min<int64_t>((split + 1) * kSplitTokens, plan_.ends()[group_read.end_begin]);
  Clear(partial);
  if (begin >= end) return;
  const SegmentReader reader(plan_.batch().segments[read.segment], args_.layer, kv_head_, sizes_);
  const int64_t state = sizes_.narrow_state();
  const auto each_block = [&](bool values, auto&& f) {
    for (int64_t token = begin; token < end;) {
      const int64_t block = token / kBlockTokens, next = std::min(end, (block + 1) * kBlockTokens);
      f(reader.Rows(block, token % kBlockTokens, next - block * kBlockTokens, values, /*whole_vectors=*/true, rows_),
        next - token, scores_ + (token - begin));
      token = next;
    }
  };
  each_block(false, [&](const F32Rows& rows, int64_t tokens, float* scores) {
    kernels_.narrow_scores(queries_, sizes_.padded, sizes_.group, rows.data, rows.stride, tokens, sizes_.padded, scores,
                           kSplitTokens);
  });
  for (int64_t g = 0; g < sizes_.group; ++g) {
    kernels_.narrow_softmax(scores_ + g * kSplitTokens, end - begin, read.hidden, begin, args_.params.softcap,
                            partial + g * state, partial + g * state + 1);
  }
  bool accumulate = false;
  each_block(true, [&](const F32Rows& rows, int64_t tokens, float* weights) {
    kernels_.narrow_values(weights, kSplitTokens, sizes_.group, rows.data, rows.stride, tokens, sizes_.padded,
                           accumulate, partial + kNarrowHeader, state);
    accumulate = true;
  });
}

void NarrowTile::Clear(float* state) const {
  for (int64_t g = 0; g < sizes_.group; ++g, state += sizes_.narrow_state()) {
    std::fill_n(state, sizes_.narrow_state(), 0.0f);
    state[0] = kNothing;
  }
}

void NarrowTile::Merge(float* state, const float* partial) const {
  for (int64_t g = 0; g < sizes_.group; ++g) {
    kernels_.narrow_merge(state + g * sizes_.narrow_state(), partial + g * sizes_.narrow_state(), sizes_.padded);
  }
}

void NarrowTile::Finish(const float* state) const {
  float values[4096];
  for (int64_t g = 0; g < sizes_.group; ++g, state += sizes_.narrow_state()) {
    const int64_t head = kv_head_ * sizes_.group + g;
    const bool nothing = state[0] == kNothing;
    const float log2_sum = nothing ? kNothing : state[0] + std::log2(state[1]);
    float factor = nothing ? 0.0f : 1.0f / state[1];
    if (args_.params.sinks != nullptr && !nothing) {
      factor /= 1.0f + std::exp2(args_.params.sinks[head] * kLog2E - log2_sum);
    }
    for (int64_t i = 0; i < sizes_.dim; ++i) values[i] = state[kNarrowHeader + i] * factor;
    WriteOut(args_, row_, head, values, 1);
    WriteLse(args_, row_, head, log2_sum * kLn2);
  }
}

}  // namespace kvlink::kernels::cpu
