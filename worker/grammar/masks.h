// Which tokens may follow where a text stands in a grammar: the product of the grammar and the vocabulary's trie, as a
// bit for each token.
//
// Most of the work for a state does not depend on what is below it on the stack: the tokens that stay within its rule,
// and the places in the trie at which the rule has ended (XGrammar, arXiv:2411.15100, calls the tokens behind these
// context-dependent). This is kept by state, and the rest is searched when a stack is seen for the first time. What was
// found is kept by the stacks, so that a step within a string costs a look-up.
//
// Thread-safety: all methods. Lifetime: a Masks keeps its grammar and its vocabulary.
#ifndef KVLINK_WORKER_GRAMMAR_MASKS_H_
#define KVLINK_WORKER_GRAMMAR_MASKS_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "worker/grammar/grammar.h"
#include "worker/grammar/stacks.h"
#include "worker/grammar/vocabulary.h"

namespace kvlink::grammar {

class Masks {
 public:
  // Of what is kept; beyond it, it is forgotten and begins anew.
  static constexpr int64_t kMaxKeptBytes = int64_t{4} << 20;
  // Of one search (Stacks::steps). A search that is cut short allows the bytes that may come next and some of the
  // longer tokens: fewer than could follow, never a wrong one.
  static constexpr int64_t kMaxSteps = int64_t{1} << 22;

  Masks(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const Vocabulary> vocabulary);

  const Grammar& grammar() const { return *grammar_; }
  const Vocabulary& vocabulary() const { return *vocabulary_; }
  // Sets the bits of the tokens that may follow, and clears all others. bits: [ceil(vocab / 32)], of any vocabulary
  // that begins with ours.
  void Allowed(const Stacks& stacks, absl::Span<uint32_t> bits);

 private:
  using Bits = std::vector<uint32_t>;
  // Of a state: tokens that its rule, or rules that it calls, may write; those with which the rule ends included.
  struct Inner {
    Bits bits;
    bool limited = false;         // by the depth
    std::vector<uint32_t> exits;  // nodes with others below, at which the rule may have ended
  };
  using InnerPtr = std::shared_ptr<const Inner>;

  // What holds at this depth; taken from a deeper state if the depth makes no difference even there.
  InnerPtr InnerOf(StateId state, int32_t depth, int64_t& steps);
  InnerPtr InnerAt(StateId state, int32_t depth, int64_t& steps);
  void Search(const Stacks& stacks, Bits& bits);
  // Follows the stacks below `node`, where they stand. `exits`: nullptr, or where nodes are added at which the bottom
  // was reached and others are below.
  void Walk(uint32_t node, Stacks& stacks, Bits& bits, std::vector<uint32_t>* exits, int64_t& steps) const;
  void AllowFirstBytes(const Stacks& stacks, Bits& bits) const;
  void SetTokens(uint32_t node, Bits& bits) const;
  // Makes room, if it has to.
  void Keep(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<const Grammar> grammar_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  const size_t words_;
  Mutex mutex_;
  int64_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::pair<StateId, int32_t>, InnerPtr> inner_ ABSL_GUARDED_BY(mutex_);  // by state and depth
  absl::flat_hash_map<std::vector<StateId>, std::shared_ptr<const Bits>> found_ ABSL_GUARDED_BY(mutex_);  // by stacks
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_MASKS_H_
