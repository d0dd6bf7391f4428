// Groups rows by the reads they share; whether a group is streamed or deferred depends only on the group.
#include "kernels/cpu/attention/attention_plan.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/cpu/angles.h"

namespace kvlink::kernels::cpu {

void CpuPlan::Build(const AttentionBatch& batch, const Threads& threads) {
  batch_ = batch;
  FindRowGroups(batch_, &groups_, &group_reads_, &cuts_);
  FindEnds();
  FindUnits();
  FillAngles(threads);
}

void CpuPlan::FindEnds() {
  ends_.clear();
  for (const Group& group : groups_) {
    for (int64_t i = group.reads_begin; i < group.reads_end; ++i) {
      GroupRead& group_read = group_reads_[i];
      const KvRead& read = batch_.reads[group_read.read];
      const KvSegment& segment = batch_.segments[read.segment];
      group_read.end_begin = static_cast<int64_t>(ends_.size());
      int64_t most = 0;
      for (int64_t row = group.row_begin; row < group.row_begin + group.row_count; ++row) {
        const int64_t end = TokensSeen(segment, read, batch_.positions[row]);
        ends_.push_back(static_cast<int32_t>(end));
        most = std::max(most, end);
      }
      group_read.splits = (most + kSplitTokens - 1) / kSplitTokens;
    }
  }
}

void CpuPlan::FindUnits() {
  streamed_.clear();
  deferred_.clear();
  units_.clear();
  entries_.clear();
  narrow_slots_ = wide_slots_ = max_deferred_rows_ = 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    Group& group = groups_[g];
    (group.deferred() ? deferred_ : streamed_).push_back(static_cast<int32_t>(g));
    if (!group.deferred()) continue;
    max_deferred_rows_ = std::max(max_deferred_rows_, group.row_count);
    int64_t& slots = group.narrow() ? narrow_slots_ : wide_slots_;
    group.slots_before = slots;
    for (int64_t i = group.reads_begin; i < group.reads_end; ++i) {
      group_reads_[i].first_slot = group.slots;
      group.slots += group_reads_[i].splits;
      for (int64_t split = 0; split < group_reads_[i].splits; ++split) {
        Unit unit;  // with one entry; joined below
        unit.segment = batch_.reads[group_reads_[i].read].segment;
        unit.split = split;
        unit.entries_begin = static_cast<int64_t>(entries_.size());
        units_.push_back(unit);
        entries_.push_back({static_cast<int32_t>(g), static_cast<int32_t>(i)});
      }
    }
    slots += group.slots;
  }
  std::sort(units_.begin(), units_.end(), [](const Unit& a, const Unit& b) {
    return std::tie(a.segment, a.split, a.entries_begin) < std::tie(b.segment, b.split, b.entries_begin);
  });
  const std::vector<Entry> unsorted = std::move(entries_);
  entries_.clear();
  size_t kept = 0;
  for (const Unit& unit : units_) {
    const bool joins = kept > 0 && units_[kept - 1].segment == unit.segment && units_[kept - 1].split == unit.split;
    const Entry entry = unsorted[unit.entries_begin];
    if (!joins) {
      Unit& next = units_[kept++];
      next = unit;
      next.entries_begin = static_cast<int64_t>(entries_.size());
    }
    entries_.push_back(entry);
    units_[kept - 1].entries_end = static_cast<int64_t>(entries_.size());
  }
  units_.resize(kept);
}

void CpuPlan::FillAngles(const Threads& threads) {
  constexpr int64_t kRun = 64;
  row_angles_.resize(batch_.ropes.size());
  offset_angles_.resize(batch_.ropes.size());
  for (size_t i = 0; i < batch_.ropes.size(); ++i) {
    const Rope& rope = *batch_.ropes[i];
    const int64_t half = rope.rotary_dim / 2;
    const auto fill = [&](std::vector<float>& angles, int64_t count, double factor, auto&& position) {
      angles.resize(count * 2 * half);
      threads.For((count + kRun - 1) / kRun, [&](int64_t item, int) {
        AngleWalker walker(rope, factor);
        for (int64_t j = item * kRun; j < std::min(count, (item + 1) * kRun); ++j) {
          walker.MoveTo(position(j));
          std::copy_n(walker.cosine(), half, angles.data() + j * 2 * half);
          std::copy_n(walker.sine(), half, angles.data() + (j * 2 + 1) * half);
        }
      });
    };
    fill(row_angles_[i], rows(), rope.attention_factor, [&](int64_t j) { return batch_.positions[j]; });
    fill(offset_angles_[i], static_cast<int64_t>(batch_.reads.size()), 1.0,
         [&](int64_t j) { return batch_.reads[j].offset; });
  }
}

}  // namespace kvlink::kernels::cpu
