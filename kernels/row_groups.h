// The basis of LinkedAttention's schedules: groups of rows with the same list of reads, and how far a row sees.
#ifndef KVLINK_KERNELS_ROW_GROUPS_H_
#define KVLINK_KERNELS_ROW_GROUPS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace kvlink::kernels {

// A schedule's group of rows.
struct RowGroup {
  int64_t row_begin = 0, row_count = 0;
  int64_t reads_begin = 0, reads_end = 0;  // in the list of all groups' reads
};

// Splits the rows wherever a read begins or ends, and lists each group's reads in the order of the batch: `read`, an
// int32_t member of GroupRead, is the read's index there. Group derives from RowGroup. `cuts` is scratch.
template <typename Group, typename GroupRead>
void FindRowGroups(const AttentionBatch& batch, std::vector<Group>* groups, std::vector<GroupRead>* group_reads,
                   std::vector<int64_t>* cuts) {
  groups->clear();
  group_reads->clear();
  *cuts = {0, static_cast<int64_t>(batch.positions.size())};
  const auto reads_rows = [&](const KvRead& read) {
    return read.row_count > 0 && batch.segments[static_cast<size_t>(read.segment)].tokens > 0;
  };
  for (const KvRead& read : batch.reads) {
    if (!reads_rows(read)) continue;
    cuts->push_back(read.row_begin);
    cuts->push_back(read.row_begin + read.row_count);
  }
  std::sort(cuts->begin(), cuts->end());
  cuts->erase(std::unique(cuts->begin(), cuts->end()), cuts->end());
  for (size_t i = 0; i + 1 < cuts->size(); ++i) {
    Group group;
    group.row_begin = (*cuts)[i];
    group.row_count = (*cuts)[i + 1] - (*cuts)[i];
    groups->push_back(group);
  }
  // Calls f(group, read) for every group that a read covers.
  const auto each = [&](auto&& f) {
    for (size_t r = 0; r < batch.reads.size(); ++r) {
      const KvRead& read = batch.reads[r];
      if (!reads_rows(read)) continue;
      const auto first = std::lower_bound(cuts->begin(), cuts->end(), read.row_begin) - cuts->begin();
      for (auto g = static_cast<size_t>(first); (*cuts)[g] < read.row_begin + read.row_count; ++g) f((*groups)[g], r);
    }
  };
  each([](Group& group, size_t) { ++group.reads_end; });  // counts, for now
  int64_t total = 0;
  for (Group& group : *groups) {
    group.reads_begin = total;
    total += group.reads_end;
    group.reads_end = group.reads_begin;
  }
  group_reads->resize(static_cast<size_t>(total));
  each([&](Group& group, size_t r) {
    (*group_reads)[static_cast<size_t>(group.reads_end++)].read = static_cast<int32_t>(r);
  });
}

// The number of the read's tokens at or before `position`.
inline int64_t TokensSeen(const KvSegment& segment, const KvRead& read, int64_t position) {
  if (segment.positions == nullptr) return std::clamp<int64_t>(position - read.offset + 1, 0, segment.tokens);
  return std::upper_bound(segment.positions, segment.positions + segment.tokens, position) - segment.positions;
}

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_ROW_GROUPS_H_
