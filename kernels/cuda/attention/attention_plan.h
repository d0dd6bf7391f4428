// The schedule of LinkedAttention for one batch, in device memory; kernels/cuda/attention/attention.h describes its
// parts.
//
// Rows with the same list of reads form a group. Groups are deferred, so that a segment shared by many rows and
// requests is read once, unless they have so many rows or splits that their partial results would cost more memory than
// they save; those are streamed. How a group runs, and in which order its partial results are merged, depends only on
// the group. Used by one thread at a time; the batch's spans must outlive it.
#ifndef KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_PLAN_H_
#define KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/stream.h"
#include "kernels/kernels.h"
#include "kernels/row_groups.h"

namespace kvlink::kernels::cuda {

// Groups with more rows, or with more (row, read, split) triples, are streamed.
inline constexpr int64_t kMaxDeferredRows = 128;
inline constexpr int64_t kMaxDeferredSlots = 8192;

class CudaPlan : public AttentionPlan {
 public:
  CudaPlan() = default;
  ~CudaPlan() override;
  CudaPlan(const CudaPlan&) = delete;
  CudaPlan& operator=(const CudaPlan&) = delete;

  // Arguments are already validated; no kernel may still read an earlier plan of this object. Copies are made in
  // `upload`; kernels of other streams wait through Ready(). RESOURCE_EXHAUSTED without memory.
  absl::Status Build(const AttentionBatch& batch, void* upload);
  absl::Status Ready(CudaStream& stream) const;

  int64_t rows() const override { return static_cast<int64_t>(batch_.positions.size()); }
  const AttentionBatch& batch() const { return batch_; }
  int64_t slots() const { return row_slots_.empty() ? 0 : row_slots_.back(); }
  bool wants_scalar() const { return wants_scalar_; }

  // Fills in the plan's part of a launch: its view and the angles of a rope.
  void Describe(int rope, AttentionLaunch* launch) const;
  // Selects the items whose segments tensor cores can read (or the others), by the logarithm of their entries.
  void ChooseItems(bool scalar, int size, AttentionLaunch* launch) const;
  // The locations of the segments' keys in this layer. Copied again if they have changed since Build.
  absl::StatusOr<const void* const*> LayerData(CudaStream& stream, int64_t layer) const;

  // For tests: the schedule on the host.
  const std::vector<AttentionUnit>& units() const { return units_; }
  const std::vector<AttentionStep>& steps() const { return steps_; }
  const std::vector<AttentionEntry>& entries() const { return entries_; }
  const std::vector<int32_t>& row_slots() const { return row_slots_; }
  absl::Span<const AttentionItem> items(bool scalar, int size) const;

 private:
  struct Group : RowGroup {
    int64_t slots = 0;
    bool deferred = false;
  };
  struct GroupRead {
    int32_t read = 0;
    int64_t ends_begin = 0;  // ends_[ends_begin + row], slots_before_ alike
    int64_t most = 0;        // the largest end
  };
  struct Section {
    const void* data = nullptr;
    int64_t bytes = 0, offset = 0;
  };

  void FindSegments();
  void FindEnds();
  void FindSlots();
  void FindUnits();
  void FindItems();
  bool Scalar(const AttentionUnit& unit) const;
  absl::Status Upload(void* stream);
  absl::Status Reserve(int64_t upload_bytes, int64_t device_bytes);
  template <typename T>
  const T* OnDevice(size_t section) const {
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(device_) + sections_[section].offset);
  }
  template <typename T>
  void AddSection(const std::vector<T>& values);

  AttentionBatch batch_;
  std::vector<AttentionSegment> segments_;
  std::vector<AttentionRead> reads_;
  std::vector<AttentionStep> steps_;
  std::vector<AttentionUnit> units_;
  std::vector<AttentionEntry> entries_;
  std::vector<AttentionItem> items_;
  std::vector<int32_t> ends_, row_slots_, tables_;
  std::vector<int64_t> row_positions_, read_offsets_, positions_;
  std::vector<uint64_t> hidden_;
  std::vector<double> turns_;            // of all ropes
  std::vector<const void*> layer_data_;  // [layers][segments]
  std::vector<int64_t> items_begin_;     // [2 * kItemSizes + 1]
  std::vector<int64_t> angles_;          // offset of each rope's angles: rows, then reads
  bool wants_scalar_ = false;
  // While building.
  std::vector<Group> groups_;
  std::vector<GroupRead> group_reads_;
  std::vector<int32_t> slots_before_;
  std::vector<int64_t> cuts_;
  std::vector<Section> sections_;

  void* pinned_ = nullptr;
  void* device_ = nullptr;
  void* event_ = nullptr;
  int64_t pinned_bytes_ = 0, device_bytes_ = 0;
};

// For one launch: the item size that fills tiles best, and the workspace.
int ItemSize(int64_t group);
int64_t AttentionWorkspaceBytes(int64_t slots, const AttentionParams& params);

}  // namespace kvlink::kernels::cuda

#endif  // KVLINK_KERNELS_CUDA_ATTENTION_ATTENTION_PLAN_H_
