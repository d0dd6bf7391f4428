#include "kernels/cpu/attention_plan.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/cpu/angles.h"

namespace kvlink::kernels::cpu {

void CpuPlan::Build(const AttentionBatch& batch, const Threads& threads) {
  batch_ = batch;
  FindGroups();
  FindEnds();
  FindUnits();
  FillAngles(threads);
}

// Cuts the rows wherever a read begins or ends, and lists each piece's reads in the order of the batch.
void CpuPlan::FindGroups() {
  groups_.clear();
  group_reads_.clear();
  cuts_ = {0, rows()};
  const auto reads_rows = [&](const KvRead& read) {
    return read.row_count > 0 && batch_.segments[read.segment].tokens > 0;
  };
  for (const KvRead& read : batch_.reads) {
    if (!reads_rows(read)) continue;
    cuts_.push_back(read.row_begin);
    cuts_.push_back(read.row_begin + read.row_count);
  }
  std::sort(cuts_.begin(), cuts_.end());
  cuts_.erase(std::unique(cuts_.begin(), cuts_.end()), cuts_.end());
  for (size_t i = 0; i + 1 < cuts_.size(); ++i) {
    Group group;
    group.row_begin = cuts_[i];
    group.row_count = cuts_[i + 1] - cuts_[i];
    groups_.push_back(group);
  }
  const auto first_group = [&](const KvRead& read) {
    return std::lower_bound(cuts_.begin(), cuts_.end(), read.row_begin) - cuts_.begin();
  };
  // Count, then place.
  for (const KvRead& read : batch_.reads) {
    if (!reads_rows(read)) continue;
    for (int64_t g = first_group(read); cuts_[g] < read.row_begin + read.row_count; ++g) ++groups_[g].reads_end;
  }
  int64_t total = 0;
  for (Group& group : groups_) {
    group.reads_begin = total;
    total += group.reads_end;
    group.reads_end = group.reads_begin;
  }
  group_reads_.resize(total);
  for (size_t r = 0; r < batch_.reads.size(); ++r) {
    const KvRead& read = batch_.reads[r];
    if (!reads_rows(read)) continue;
    for (int64_t g = first_group(read); cuts_[g] < read.row_begin + read.row_count; ++g) {
      group_reads_[groups_[g].reads_end++].read = static_cast<int32_t>(r);
    }
  }
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
        const int64_t position = batch_.positions[row];
        int64_t end = std::clamp<int64_t>(position - read.offset + 1, 0, segment.tokens);
        if (segment.positions != nullptr) {
          end = std::upper_bound(segment.positions, segment.positions + segment.tokens, position) - segment.positions;
        }
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
        Unit unit;  // of one entry; joined below
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
