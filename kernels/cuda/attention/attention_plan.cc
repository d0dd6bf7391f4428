// Builds the arrays of AttentionPlanView on the host and uploads them in one copy.
#include "kernels/cuda/attention/attention_plan.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numbers>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cuda/runtime.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int64_t kSplitBlocks = kSplitTokens / kBlockTokens;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return DivideUp(a, b) * b; }

// The order of AttentionPlanView's arrays, and of the other arrays uploaded with them.
enum SectionOf : size_t {
  kSegments,
  kReads,
  kSteps,
  kUnits,
  kEntries,
  kItems,
  kEnds,
  kRowPositions,
  kReadOffsets,
  kRowSlots,
  kTables,
  kPositions,
  kHidden,
  kTurns,
  kLayerData,
};

}  // namespace

CudaPlan::~CudaPlan() {
  // Copies may still be in progress.
  if (event_ != nullptr) {
    static_cast<void>(SynchronizeEvent(event_));
    DestroyEvent(event_);
  }
  if (pinned_ != nullptr) FreePinned(pinned_);
  if (device_ != nullptr) FreeDevice(device_);
}

absl::Status CudaPlan::Build(const AttentionBatch& batch, void* upload) {
  for (const KvSegment& segment : batch.segments) {
    if (segment.tokens > std::numeric_limits<int32_t>::max() / 2) {
      return absl::InvalidArgumentError(absl::StrCat("Plan: a segment of ", segment.tokens, " tokens is too long"));
    }
  }
  batch_ = batch;
  FindSegments();
  FindRowGroups(batch_, &groups_, &group_reads_, &cuts_);
  FindEnds();
  int64_t slots = 0;
  for (const Group& group : groups_) slots += group.deferred ? group.slots : group.row_count;
  if (slots > std::numeric_limits<int32_t>::max()) {
    return absl::ResourceExhaustedError(absl::StrCat("Plan: ", slots, " partial results; use smaller batches"));
  }
  FindSlots();
  FindUnits();
  FindItems();
  return rows() == 0 ? absl::OkStatus() : Upload(upload);
}

absl::Status CudaPlan::Ready(CudaStream& stream) const {
  return event_ == nullptr ? absl::OkStatus() : stream.WaitFor(event_);
}

void CudaPlan::FindSegments() {
  segments_.clear();
  reads_.clear();
  tables_.clear();
  positions_.clear();
  hidden_.clear();
  read_offsets_.clear();
  row_positions_.assign(batch_.positions.begin(), batch_.positions.end());
  size_t layers = 0;
  for (const KvSegment& segment : batch_.segments) {
    AttentionSegment ours;
    ours.head_stride = segment.head_stride;
    ours.block_stride = segment.block_stride;
    ours.tokens = segment.tokens;
    ours.codec = static_cast<int32_t>(segment.codec);
    ours.padded = segment.padded_blocks ? 1 : 0;
    if (segment.block_table != nullptr) {
      ours.table = static_cast<int64_t>(tables_.size());
      tables_.insert(tables_.end(), segment.block_table, segment.block_table + DivideUp(segment.tokens, kBlockTokens));
    }
    if (segment.positions != nullptr) {
      ours.positions = static_cast<int64_t>(positions_.size());
      positions_.insert(positions_.end(), segment.positions, segment.positions + segment.tokens);
    }
    segments_.push_back(ours);
    layers = std::max(layers, segment.layer_data.size());
  }
  for (const KvRead& read : batch_.reads) {
    AttentionRead ours;
    ours.offset = read.offset;
    read_offsets_.push_back(read.offset);
    if (read.hidden != nullptr) {
      ours.hidden = static_cast<int64_t>(hidden_.size());
      hidden_.insert(hidden_.end(), read.hidden,
                     read.hidden + DivideUp(batch_.segments[static_cast<size_t>(read.segment)].tokens, kBlockTokens));
    }
    reads_.push_back(ours);
  }
  layer_data_.assign(layers * segments_.size(), nullptr);
  for (size_t layer = 0; layer < layers; ++layer) {
    for (size_t s = 0; s < segments_.size(); ++s) {
      const auto& data = batch_.segments[s].layer_data;
      if (layer < data.size()) layer_data_[layer * segments_.size() + s] = data[layer];
    }
  }
}

void CudaPlan::FindEnds() {
  ends_.clear();
  slots_before_.clear();
  std::vector<int32_t> before;  // slots of each row of the group so far
  for (Group& group : groups_) {
    before.assign(static_cast<size_t>(group.row_count), 0);
    for (int64_t i = group.reads_begin; i < group.reads_end; ++i) {
      GroupRead& group_read = group_reads_[static_cast<size_t>(i)];
      const KvRead& read = batch_.reads[static_cast<size_t>(group_read.read)];
      const KvSegment& segment = batch_.segments[static_cast<size_t>(read.segment)];
      group_read.ends_begin = static_cast<int64_t>(ends_.size());
      group_read.most = 0;
      for (int64_t k = 0; k < group.row_count; ++k) {
        const int64_t end = TokensSeen(segment, read, batch_.positions[static_cast<size_t>(group.row_begin + k)]);
        ends_.push_back(static_cast<int32_t>(end));
        slots_before_.push_back(before[static_cast<size_t>(k)]);
        before[static_cast<size_t>(k)] += static_cast<int32_t>(DivideUp(end, kSplitTokens));
        group_read.most = std::max(group_read.most, end);
      }
    }
    group.slots = 0;
    for (int32_t slots : before) group.slots += slots;
    group.deferred = group.row_count <= kMaxDeferredRows && group.slots <= kMaxDeferredSlots;
  }
}

void CudaPlan::FindSlots() {
  row_slots_.assign(static_cast<size_t>(rows()) + 1, 0);
  for (const Group& group : groups_) {
    for (int64_t k = 0; k < group.row_count; ++k) {
      int64_t slots = group.reads_end > group.reads_begin ? 1 : 0;
      if (group.deferred && slots > 0) {
        const GroupRead& last = group_reads_[static_cast<size_t>(group.reads_end - 1)];
        const size_t at = static_cast<size_t>(last.ends_begin + k);
        slots = slots_before_[at] + DivideUp(ends_[at], kSplitTokens);
      }
      row_slots_[static_cast<size_t>(group.row_begin + k + 1)] = static_cast<int32_t>(slots);
    }
  }
  for (size_t row = 1; row < row_slots_.size(); ++row) row_slots_[row] += row_slots_[row - 1];
}

void CudaPlan::FindUnits() {
  steps_.clear();
  units_.clear();
  entries_.clear();
  struct Part {
    int32_t segment;
    int64_t split;
    size_t group, group_read;
  };
  std::vector<Part> parts;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    AttentionUnit unit;  // if the group is streamed; such units are few and long, so they come first
    unit.steps_begin = static_cast<int64_t>(steps_.size());
    unit.entries = static_cast<int32_t>(group.row_count);
    unit.row_begin = static_cast<int32_t>(group.row_begin);
    unit.slot_begin = row_slots_[static_cast<size_t>(group.row_begin)];
    unit.streamed = 1;
    for (int64_t i = group.reads_begin; i < group.reads_end; ++i) {
      const GroupRead& group_read = group_reads_[static_cast<size_t>(i)];
      const int32_t segment = batch_.reads[static_cast<size_t>(group_read.read)].segment;
      if (group.deferred) {
        for (int64_t split = 0; split * kSplitTokens < group_read.most; ++split) {
          parts.push_back({segment, split, g, static_cast<size_t>(i)});
        }
        continue;
      }
      steps_.push_back({segment, 0, static_cast<int32_t>(DivideUp(group_read.most, kBlockTokens)), group_read.read,
                        group_read.ends_begin});
      ++unit.steps;
    }
    if (unit.steps > 0) units_.push_back(unit);
  }
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
    return std::tie(a.segment, a.split, a.group_read) < std::tie(b.segment, b.split, b.group_read);
  });
  for (size_t p = 0; p < parts.size();) {
    const int32_t segment = parts[p].segment;
    const int64_t split = parts[p].split;
    AttentionUnit unit;
    unit.steps_begin = static_cast<int64_t>(steps_.size());
    unit.steps = 1;
    unit.entries_begin = static_cast<int64_t>(entries_.size());
    const int64_t blocks = DivideUp(segments_[static_cast<size_t>(segment)].tokens, kBlockTokens);
    steps_.push_back({segment, static_cast<int32_t>(split * kSplitBlocks),
                      static_cast<int32_t>(std::min(blocks, (split + 1) * kSplitBlocks)), -1, 0});
    for (; p < parts.size() && parts[p].segment == segment && parts[p].split == split; ++p) {
      const Group& group = groups_[parts[p].group];
      const GroupRead& group_read = group_reads_[parts[p].group_read];
      for (int64_t k = 0; k < group.row_count; ++k) {
        const size_t at = static_cast<size_t>(group_read.ends_begin + k);
        if (ends_[at] <= split * kSplitTokens) continue;
        const int64_t row = group.row_begin + k;
        const int64_t slot = row_slots_[static_cast<size_t>(row)] + slots_before_[at] + split;
        entries_.push_back({static_cast<int32_t>(row), group_read.read, ends_[at], static_cast<int32_t>(slot)});
      }
    }
    unit.entries = static_cast<int32_t>(static_cast<int64_t>(entries_.size()) - unit.entries_begin);
    units_.push_back(unit);
  }
}

// Whether a unit reads something that only the f32 kernel supports.
bool CudaPlan::Scalar(const AttentionUnit& unit) const {
  for (int64_t s = unit.steps_begin; s < unit.steps_begin + unit.steps; ++s) {
    const int32_t segment = steps_[static_cast<size_t>(s)].segment;
    if (batch_.segments[static_cast<size_t>(segment)].codec == Codec::kRawF32) return true;
  }
  return false;
}

void CudaPlan::FindItems() {
  items_.clear();
  items_begin_.assign(1, 0);
  wants_scalar_ = false;
  for (const bool scalar : {false, true}) {
    for (int size = 0; size < kItemSizes; ++size) {
      const int32_t step = int32_t{1} << size;
      for (size_t u = 0; u < units_.size(); ++u) {
        if (Scalar(units_[u]) != scalar) continue;
        wants_scalar_ = wants_scalar_ || scalar;
        // Later rows of a streamed unit see more tokens: take them first.
        for (int32_t i = (units_[u].entries - 1) / step; i >= 0; --i) {
          items_.push_back({static_cast<int32_t>(u), i * step});
        }
      }
      items_begin_.push_back(static_cast<int64_t>(items_.size()));
    }
  }
}

template <typename T>
void CudaPlan::AddSection(const std::vector<T>& values) {
  Section section;
  section.data = values.data();
  section.bytes = static_cast<int64_t>(values.size() * sizeof(T));
  if (!sections_.empty()) section.offset = RoundUp(sections_.back().offset + sections_.back().bytes, 64);
  sections_.push_back(section);
}

absl::Status CudaPlan::Reserve(int64_t upload_bytes, int64_t device_bytes) {
  if (event_ == nullptr) {
    KVLINK_ASSIGN_OR_RETURN(event_, CreateEvent());
  }
  KVLINK_RETURN_IF_ERROR(SynchronizeEvent(event_));
  if (upload_bytes > pinned_bytes_) {
    if (pinned_ != nullptr) FreePinned(std::exchange(pinned_, nullptr));
    pinned_bytes_ = 0;
    KVLINK_ASSIGN_OR_RETURN(pinned_, AllocatePinned(2 * upload_bytes));
    pinned_bytes_ = 2 * upload_bytes;
  }
  if (device_bytes > device_bytes_) {
    if (device_ != nullptr) FreeDevice(std::exchange(device_, nullptr));
    device_bytes_ = 0;
    KVLINK_ASSIGN_OR_RETURN(device_, AllocateDevice(2 * device_bytes));
    device_bytes_ = 2 * device_bytes;
  }
  return absl::OkStatus();
}

absl::Status CudaPlan::Upload(void* stream) {
  turns_.clear();
  for (const Rope* rope : batch_.ropes) {
    for (double frequency : rope->inv_freq) turns_.push_back(frequency / (2 * std::numbers::pi));
  }
  sections_.clear();
  AddSection(segments_);
  AddSection(reads_);
  AddSection(steps_);
  AddSection(units_);
  AddSection(entries_);
  AddSection(items_);
  AddSection(ends_);
  AddSection(row_positions_);
  AddSection(read_offsets_);
  AddSection(row_slots_);
  AddSection(tables_);
  AddSection(positions_);
  AddSection(hidden_);
  AddSection(turns_);
  AddSection(layer_data_);
  const int64_t upload_bytes = RoundUp(sections_.back().offset + sections_.back().bytes, 64);
  const int64_t reads = static_cast<int64_t>(reads_.size());
  int64_t bytes = upload_bytes;
  angles_.clear();
  for (const Rope* rope : batch_.ropes) {
    angles_.push_back(bytes);
    bytes = RoundUp(bytes + (rows() + reads) * rope->rotary_dim * 4, 64);
  }
  KVLINK_RETURN_IF_ERROR(Reserve(upload_bytes, bytes));
  for (const Section& section : sections_) {
    if (section.bytes == 0) continue;
    std::memcpy(static_cast<std::byte*>(pinned_) + section.offset, section.data, static_cast<size_t>(section.bytes));
  }
  KVLINK_RETURN_IF_ERROR(Copy(stream, device_, pinned_, upload_bytes));
  int64_t turns = 0;
  for (size_t i = 0; i < batch_.ropes.size(); ++i) {
    const Rope& rope = *batch_.ropes[i];
    AnglesLaunch launch;
    launch.rope = {OnDevice<double>(kTurns) + turns, rope.rotary_dim / 2, 1};
    turns += rope.rotary_dim / 2;
    launch.positions = OnDevice<int64_t>(kRowPositions);
    launch.count = rows();
    launch.factor = rope.attention_factor;
    launch.out = reinterpret_cast<float*>(static_cast<std::byte*>(device_) + angles_[i]);
    KVLINK_RETURN_IF_ERROR(LaunchStatus("Plan", LaunchAngles(stream, launch)));
    if (reads == 0) continue;
    launch.positions = OnDevice<int64_t>(kReadOffsets);
    launch.out += rows() * rope.rotary_dim;
    launch.count = reads;
    launch.factor = 1;
    KVLINK_RETURN_IF_ERROR(LaunchStatus("Plan", LaunchAngles(stream, launch)));
  }
  return RecordEvent(event_, stream);
}

void CudaPlan::Describe(int rope, AttentionLaunch* launch) const {
  launch->plan.segments = OnDevice<AttentionSegment>(kSegments);
  launch->plan.reads = OnDevice<AttentionRead>(kReads);
  launch->plan.steps = OnDevice<AttentionStep>(kSteps);
  launch->plan.units = OnDevice<AttentionUnit>(kUnits);
  launch->plan.entries = OnDevice<AttentionEntry>(kEntries);
  launch->plan.ends = OnDevice<int32_t>(kEnds);
  launch->plan.row_positions = OnDevice<int64_t>(kRowPositions);
  launch->plan.row_slots = OnDevice<int32_t>(kRowSlots);
  launch->plan.tables = OnDevice<int32_t>(kTables);
  launch->plan.positions = OnDevice<int64_t>(kPositions);
  launch->plan.hidden = OnDevice<uint64_t>(kHidden);
  launch->half = batch_.ropes[static_cast<size_t>(rope)]->rotary_dim / 2;
  launch->row_angles =
      reinterpret_cast<const float*>(static_cast<const std::byte*>(device_) + angles_[static_cast<size_t>(rope)]);
  launch->read_angles = launch->row_angles + rows() * 2 * launch->half;
}

absl::Span<const AttentionItem> CudaPlan::items(bool scalar, int size) const {
  const size_t list = static_cast<size_t>(size) + (scalar ? size_t{kItemSizes} : 0);
  return absl::MakeConstSpan(items_).subspan(static_cast<size_t>(items_begin_[list]),
                                             static_cast<size_t>(items_begin_[list + 1] - items_begin_[list]));
}

void CudaPlan::ChooseItems(bool scalar, int size, AttentionLaunch* launch) const {
  launch->items = OnDevice<AttentionItem>(kItems) + (items(scalar, size).data() - items_.data());
  launch->item_count = static_cast<int64_t>(items(scalar, size).size());
  launch->item_entries = int32_t{1} << size;
}

absl::StatusOr<const void* const*> CudaPlan::LayerData(CudaStream& stream, int64_t layer) const {
  const size_t count = segments_.size(), first = static_cast<size_t>(layer) * count;
  std::vector<const void*> now;
  bool same = true;
  for (size_t s = 0; s < count; ++s) {
    const auto& data = batch_.segments[s].layer_data;
    const void* at = static_cast<size_t>(layer) < data.size() ? data[static_cast<size_t>(layer)] : nullptr;
    same = same && first + s < layer_data_.size() && layer_data_[first + s] == at;
  }
  if (same) return OnDevice<const void*>(kLayerData) + first;
  for (const KvSegment& segment : batch_.segments) {
    now.push_back(static_cast<size_t>(layer) < segment.layer_data.size()
                      ? segment.layer_data[static_cast<size_t>(layer)]
                      : nullptr);
  }
  KVLINK_ASSIGN_OR_RETURN(const void* staged, stream.Stage(now.data(), static_cast<int64_t>(count * sizeof(void*))));
  return static_cast<const void* const*>(staged);
}

int ItemSize(int64_t group) {
  int size = 0;
  while (size + 1 < kItemSizes && (int64_t{2} << size) * group <= kTileRows) ++size;
  return size;
}

int64_t AttentionWorkspaceBytes(int64_t slots, const AttentionParams& params) {
  return RoundUp(slots * params.heads * 2 * 4, 64) + RoundUp(slots * params.heads * params.head_dim * 4, 64);
}

}  // namespace kvlink::kernels::cuda
