// Byte-pair encoding: repeatedly joins the pair of neighbouring symbols with the lowest rank (of these the leftmost)
// until no pair has a rank (Sennrich et al., arXiv 1508.07909). SentencePiece's BPE is the same, with ranks from the
// scores of its pieces.
//
// Thread-safety: build on one thread; const methods on any number. A Workspace belongs to one thread at a time.
#ifndef KVLINK_WORKER_TEXT_BPE_H_
#define KVLINK_WORKER_TEXT_BPE_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace kvlink::model {

class BpeMerges {
 public:
  // Memory that Apply reuses from word to word.
  struct Workspace {
    struct Symbol {
      int32_t id;  // -1: joined to an earlier symbol
      int32_t previous, next;
    };
    struct Candidate {
      int32_t rank, position, id;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // Lets `left` and `right` side by side become `merged`; lower ranks first. A repeated pair replaces its earlier
  // meaning. Ids are not negative.
  void Add(int32_t left, int32_t right, int32_t rank, int32_t merged) { merges_[Key(left, right)] = {rank, merged}; }
  void Reserve(size_t count) { merges_.reserve(count); }

  // Appends the symbols that `word` merges to. O(n log n); n < 2^31.
  void Apply(absl::Span<const int32_t> word, Workspace& workspace, std::vector<int32_t>& out) const;

 private:
  struct Merge {
    int32_t rank, id;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  // Queues the pair that starts at `position`, if it has a rank.
  void Consider(Workspace& workspace, int32_t position) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_BPE_H_
