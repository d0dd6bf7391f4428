// BatchArrays: assembles the arrays of a forward pass.
#include <algorithm>

#include "worker/model/model.h"

namespace kvlink::model {

int64_t BatchArrays::AddRows(absl::Span<const int32_t> new_tokens, absl::Span<const int64_t> new_positions,
                             absl::Span<const int64_t> new_slots) {
  const auto first = static_cast<int64_t>(tokens.size());
  tokens.insert(tokens.end(), new_tokens.begin(), new_tokens.end());
  positions.insert(positions.end(), new_positions.begin(), new_positions.end());
  slots.insert(slots.end(), new_slots.begin(), new_slots.end());
  return first;
}

void BatchArrays::AddRead(int32_t segment, absl::Span<const int64_t> at, int64_t first_row, int64_t offset,
                          const uint64_t* hidden) {
  const auto seeing = std::lower_bound(at.begin(), at.end(), offset);
  if (seeing == at.end()) return;
  reads.push_back({segment, first_row + (seeing - at.begin()), at.end() - seeing, offset, hidden});
}

void BatchArrays::AddPrivate(const KvSequence& sequence, int64_t first_row, int64_t rows) {
  reads.push_back({static_cast<int32_t>(segments.size()), first_row, rows, 0, nullptr});
  segments.push_back(sequence.segment());
}

ForwardBatch BatchArrays::Batch(KvPages* pages) const {
  ForwardBatch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slots = slots;
  batch.pages = pages;
  batch.segments = segments;
  batch.reads = reads;
  batch.logits_rows = logits_rows;
  return batch;
}

}  // namespace kvlink::model
