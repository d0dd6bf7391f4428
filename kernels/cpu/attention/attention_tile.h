// The inner part of LinkedAttention: one tile of rows, one kv head, one split of one segment at a time.
#ifndef KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_TILE_H_
#define KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_TILE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/attention/attention_amx.h"
#include "kernels/cpu/attention/attention_plan.h"
#include "kernels/cpu/attention/attention_reader.h"
#include "kernels/cpu/attention/attention_simd.h"
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
    if (!BeginSplit(read, split)) return;
    for (int64_t p = 0; p < panels_; ++p) {
      if (SplitPanel(read, split, p, partial)) done(p);
    }
  }
  // Divides, applies sinks, writes `out` and `lse` from the panels' states.
  void Finish(int64_t p, float* state) const;
  // Sets the state of panel `p` to that of no keys seen.
  void Clear(float* state, int64_t p) const;
  int64_t panels() const { return panels_; }
  int vectors(int64_t p) const {
    return static_cast<int>(DivideUp(std::min(sizes_.panel, rows_ * sizes_.group - p * sizes_.panel), sizes_.lanes));
  }
  const AttentionKernels& kernels() const { return kernels_; }
  const AttentionSizes& sizes() const { return sizes_; }

 private:
  struct Range {
    int64_t min_lo, max_lo, min_hi, max_hi;
  };
  bool BeginSplit(const CpuPlan::GroupRead& read, int64_t split);
  template <typename Partial>
  bool SplitPanel(const CpuPlan::GroupRead& read, int64_t split, int64_t p, Partial&& partial) {
    const int64_t begin = std::max(split * kSplitTokens, ranges_[p].min_lo);
    const int64_t end = std::min((split + 1) * kSplitTokens, ranges_[p].max_hi);
    if (begin >= end) return false;
    ComputePanel(read, split, p, begin, end, partial(p));
    return true;
  }
  void ComputePanel(const CpuPlan::GroupRead& read, int64_t split, int64_t p, int64_t begin, int64_t end,
                    float* partial);
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
