// The schedule of LinkedAttention for one batch.
//
// Rows with the same list of reads form a group. A row computes a sequence of partial results, one for each (read,
// split of 256 tokens) in order, merged in order, so the result depends neither on the batch nor on the threads. There
// are two ways to run it:
//   streamed  (groups of many rows)  a work item is a tile of rows and a kv head, and merges as it goes
//   deferred  (groups of few rows)   a work item is a split of a segment and a kv head, for every group that reads it,
//                                    so that shared segments are read once; partials are stored in slots and merged
//                                    afterwards
// A group of one row uses the narrow kernels, others the wide ones (attention_simd.h).
#ifndef KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_PLAN_H_
#define KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_PLAN_H_

#include <vector>

#include "kernels/cpu/threads.h"
#include "kernels/kernels.h"
#include "kernels/row_groups.h"

namespace kvlink::kernels::cpu {

inline constexpr int64_t kSplitTokens = 256;
// Groups of at most this many rows are deferred.
inline constexpr int64_t kDeferredRows = 16;

class CpuPlan : public AttentionPlan {
 public:
  // One read of a group.
  struct GroupRead {
    int32_t read = 0;        // index in the batch
    int64_t end_begin = 0;   // ends()[end_begin + row]: tokens at or before the row's position
    int64_t splits = 0;      // splits that any row reaches
    int64_t first_slot = 0;  // deferred groups: slot of split 0
  };
  struct Group : RowGroup {
    int64_t slots = 0;         // deferred groups: (read, split) pairs
    int64_t slots_before = 0;  // of the deferred groups of the same kind (narrow or not) before this one
    bool deferred() const { return row_count <= kDeferredRows; }
    bool narrow() const { return row_count == 1; }
  };
  // A split of a segment and the deferred groups that read it.
  struct Entry {
    int32_t group = 0;
    int32_t group_read = 0;
  };
  struct Unit {
    int32_t segment = 0;
    int64_t split = 0;
    int64_t entries_begin = 0;
    int64_t entries_end = 0;
  };
  // Arguments are already validated.
  void Build(const AttentionBatch& batch, const Threads& threads);

  int64_t rows() const override { return static_cast<int64_t>(batch_.positions.size()); }
  const AttentionBatch& batch() const { return batch_; }
  const std::vector<Group>& groups() const { return groups_; }
  const std::vector<GroupRead>& group_reads() const { return group_reads_; }
  const std::vector<int32_t>& ends() const { return ends_; }
  const std::vector<int32_t>& streamed() const { return streamed_; }  // groups
  const std::vector<int32_t>& deferred() const { return deferred_; }
  const std::vector<Unit>& units() const { return units_; }
  const std::vector<Entry>& entries() const { return entries_; }
  int64_t narrow_slots() const { return narrow_slots_; }
  int64_t wide_slots() const { return wide_slots_; }
  int64_t max_deferred_rows() const { return max_deferred_rows_; }

  // Angles of rope `rope`, each [half]: of a row's position (times the attention factor), and of a read's offset.
  const float* RowCosine(int rope, int64_t row) const { return Angle(row_angles_[rope], rope, row); }
  const float* RowSine(int rope, int64_t row) const { return RowCosine(rope, row) + Half(rope); }
  const float* OffsetCosine(int rope, int64_t read) const { return Angle(offset_angles_[rope], rope, read); }
  const float* OffsetSine(int rope, int64_t read) const { return OffsetCosine(rope, read) + Half(rope); }
  int64_t Half(int rope) const { return batch_.ropes[rope]->rotary_dim / 2; }

 private:
  const float* Angle(const std::vector<float>& angles, int rope, int64_t i) const {
    return angles.data() + i * 2 * Half(rope);
  }
  void FindEnds();
  void FindUnits();
  void FillAngles(const Threads& threads);

  AttentionBatch batch_;
  std::vector<Group> groups_;
  std::vector<GroupRead> group_reads_;
  std::vector<int32_t> ends_;
  std::vector<int32_t> streamed_;
  std::vector<int32_t> deferred_;
  std::vector<Unit> units_;
  std::vector<Entry> entries_;
  int64_t narrow_slots_ = 0;
  int64_t wide_slots_ = 0;
  int64_t max_deferred_rows_ = 0;
  std::vector<std::vector<float>> row_angles_;     // by rope: [row][cos, sin][half]
  std::vector<std::vector<float>> offset_angles_;  // by rope: [read][cos, sin][half]
  std::vector<int64_t> cuts_;                      // scratch of FindRowGroups
};

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_PLAN_H_
