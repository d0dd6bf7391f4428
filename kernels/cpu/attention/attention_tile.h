// The inner part of LinkedAttention: one tile of rows, one kv head, one split of one segment at a time.
#ifndef KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_TILE_H_
#define KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_TILE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/attention_plan.h"
#include "kernels/cpu/attention/attention_reader.h"
#include "kernels/cpu/attention/attention_simd.h"
#include "kernels/cpu/attention/tiled_panels.h"
#include "kernels/cpu/bf16/tiles.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// A tile of rows and a kv head in wide form. The arena provides the memory; not thread-safe.
class WideTile {
 public:
  // If `tiles` is not nullptr, it multiplies bf16 segments.
  WideTile(const CpuPlan& plan, const LinkedAttentionArgs& args, const AttentionSizes& sizes, int64_t max_rows,
           MultiplyTiles tiles, Arena& arena);
  // Starts on rows [row_begin, row_begin + rows) of `group` and takes their queries.
  void Begin(const CpuPlan::Group& group, int64_t row_begin, int64_t rows, int64_t kv_head);
  // Rotates the queries for a read of the group.
  void BeginRead(const CpuPlan::GroupRead& read);
  // Computes the partial results of a split; partial(panel) returns the destination, and done(panel) is called once it
  // is written. Panels that see nothing of the split are skipped.
  template <typename Partial, typename Done>
  void Split(const CpuPlan::GroupRead& read, int64_t split, Partial&& partial, Done&& done) {
    if (!BeginSplit(read, split, /*values=*/true)) return;
    EachPanel(split, [&](int64_t p, int64_t begin, int64_t end) {
      ComputePanel(read, split, p, begin, end, partial(p));
      done(p);
    });
  }
  // Computes only how much attention a split's keys receive, given LinkedAttentionArgs::lse: calls weighed(panel,
  // begin, end, weights) for tokens [begin, end) of the segment. A token's share of a lane's attention is
  // weights[token - begin][lane] * factors[lane]; `factors` has room for two panels.
  template <typename Weighed>
  void Weigh(const CpuPlan::GroupRead& read, int64_t split, float* factors, Weighed&& weighed) {
    if (!BeginSplit(read, split, /*values=*/false)) return;
    EachPanel(split, [&](int64_t p, int64_t begin, int64_t end) {
      const float* weights = ComputeWeights(read, split, p, begin, end, factors);
      ToShares(p, factors);
      weighed(p, begin, end, weights);
    });
  }
  // Divides, applies sinks, writes `out` and `lse` from the panels' states.
  void Finish(int64_t p, float* state) const;
  // Sets the state of panel `p` to that of no keys seen.
  void Clear(float* state, int64_t p) const;
  int64_t panels() const { return panels_; }
  int vectors(int64_t p) const {
    return static_cast<int>(DivideUp(std::min(sizes_.panel, rows_ * sizes_.group - p * sizes_.panel), sizes_.lanes));
  }
  int64_t width(int64_t p) const { return vectors(p) * sizes_.lanes; }  // lanes of panel p
  const AttentionKernels& kernels() const { return kernels_; }
  const AttentionSizes& sizes() const { return sizes_; }

 private:
  struct Range {
    int64_t min_lo, max_lo, min_hi, max_hi;
  };
  bool BeginSplit(const CpuPlan::GroupRead& read, int64_t split, bool values);
  // Calls f(panel, begin, end) with the tokens of the split that any row of the panel sees, if there are any.
  template <typename F>
  void EachPanel(int64_t split, F&& f) const {
    for (int64_t p = 0; p < panels_; ++p) {
      const int64_t begin = std::max(split * kSplitTokens, ranges_[p].min_lo);
      const int64_t end = std::min((split + 1) * kSplitTokens, ranges_[p].max_hi);
      if (begin < end) f(p, begin, end);
    }
  }
  // Calls f(block of the split, first token of the block, tokens, place of the tokens' scores in scores_) for the
  // blocks of [begin, end).
  template <typename F>
  void EachBlock(int64_t split, int64_t begin, int64_t end, int64_t width, F&& f) const {
    for (int64_t token = begin; token < end;) {
      const int64_t next = std::min(end, (token / kBlockTokens + 1) * kBlockTokens);
      f(token / kBlockTokens - split * (kSplitTokens / kBlockTokens), token % kBlockTokens, next - token,
        scores_ + (token - begin) * width);
      token = next;
    }
  }
  // Writes [largest: lanes][sum: lanes] of the exponentials that it returns, somewhere in scores_.
  const float* ComputeWeights(const CpuPlan::GroupRead& read, int64_t split, int64_t p, int64_t begin, int64_t end,
                              float* partial);
  void ComputePanel(const CpuPlan::GroupRead& read, int64_t split, int64_t p, int64_t begin, int64_t end,
                    float* partial);
  void ToShares(int64_t p, float* largest) const;
  // The head of a lane, counted from the first of panel p.
  int64_t Head(int64_t p, int64_t lane) const {
    return kv_head_ * sizes_.group + (p * sizes_.panel + lane) % sizes_.group;
  }
  int64_t Row(int64_t p, int64_t lane) const { return row_begin_ + (p * sizes_.panel + lane) / sizes_.group; }
  // Lanes of panel p that are rows of the tile.
  int64_t UsedLanes(int64_t p) const { return std::min(width(p), rows_ * sizes_.group - p * sizes_.panel); }
  const KvSegment& Segment(const CpuPlan::GroupRead& read) const {
    return plan_.batch().segments[plan_.batch().reads[read.read].segment];
  }

  const CpuPlan& plan_;
  const LinkedAttentionArgs& args_;
  const AttentionSizes& sizes_;
  const AttentionKernels& kernels_;
  TiledPanels tiled_;
  float* base_;    // [panel][dim][lanes] queries rotated to their positions, scaled
  float* turned_;  // the same, rotated back by the read's offset
  float* scores_;  // [kSplitTokens][panel]
  float* keys_;    // [kSplitTokens][padded]
  float* values_;
  int32_t* lo_;  // [panels][panel]
  int32_t* hi_;
  Range* ranges_;  // [panels]
  const CpuPlan::Group* group_ = nullptr;
  int64_t row_begin_ = 0, rows_ = 0, kv_head_ = 0, panels_ = 0;
  const float* queries_ = nullptr;
  F32Rows key_rows_[kSplitTokens / kBlockTokens], value_rows_[kSplitTokens / kBlockTokens];
};

// One row and a kv head in narrow form.
class NarrowTile {
 public:
  NarrowTile(const CpuPlan& plan, const LinkedAttentionArgs& args, const AttentionSizes& sizes, Arena& arena);
  void Begin(const CpuPlan::Group& group, int64_t kv_head);
  void BeginRead(const CpuPlan::GroupRead& read);
  // Writes the partial result of a split, [group] states of sizes.narrow_state() each.
  void Split(const CpuPlan::GroupRead& read, int64_t split, float* partial);
  void Clear(float* state) const;
  void Merge(float* state, const float* partial) const;
  void Finish(const float* state) const;

 private:
  const CpuPlan& plan_;
  const LinkedAttentionArgs& args_;
  const AttentionSizes& sizes_;
  const AttentionKernels& kernels_;
  float* base_;  // [group][padded]
  float* turned_;
  float* scores_;  // [group][kSplitTokens]
  float* rows_;    // [kBlockTokens][padded]
  int64_t row_ = 0, kv_head_ = 0;
  const float* queries_ = nullptr;
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_TILE_H_
