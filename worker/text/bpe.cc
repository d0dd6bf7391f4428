// Merges by a heap of candidates over a linked list of symbols: O(n log n). Scanning for the best pair would be
// quadratic in the length of a word, and a word may be as long as the text.
#include "worker/text/bpe.h"

#include <algorithm>

namespace kvlink::model {
namespace {

// Heap order: the smallest (rank, position) on top.
bool Later(const BpeMerges::Workspace::Candidate& a, const BpeMerges::Workspace::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

void BpeMerges::Consider(Workspace& workspace, int32_t position) const {
  const auto& symbol = workspace.symbols[position];
  if (symbol.next < 0) return;
  const auto found = merges_.find(Key(symbol.id, workspace.symbols[symbol.next].id));
  if (found == merges_.end()) return;
  workspace.heap.push_back({found->second.rank, position, found->second.id});
  std::push_heap(workspace.heap.begin(), workspace.heap.end(), Later);
}

void BpeMerges::Apply(absl::Span<const int32_t> word, Workspace& workspace, std::vector<int32_t>& out) const {
  if (word.size() < 2) {
    out.insert(out.end(), word.begin(), word.end());
    return;
  }
  auto& symbols = workspace.symbols;
  auto& heap = workspace.heap;
  const int32_t count = static_cast<int32_t>(word.size());
  symbols.resize(count);
  heap.clear();
  for (int32_t i = 0; i < count; ++i) symbols[i] = {word[i], i - 1, i + 1 < count ? i + 1 : -1};
  for (int32_t i = 0; i + 1 < count; ++i) Consider(workspace, i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later);
    const Workspace::Candidate candidate = heap.back();
    heap.pop_back();
    auto& left = symbols[candidate.position];
    if (left.id < 0 || left.next < 0) continue;
    auto& right = symbols[left.next];
    // The pair may have changed since it was queued.
    const auto found = merges_.find(Key(left.id, right.id));
    if (found == merges_.end() || found->second.id != candidate.id || found->second.rank != candidate.rank) continue;
    left.id = candidate.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = candidate.position;
    if (left.previous >= 0) Consider(workspace, left.previous);
    Consider(workspace, candidate.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) out.push_back(symbols[i].id);
}

}  // namespace kvlink::model
