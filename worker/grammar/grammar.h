// A grammar as a pushdown automaton over bytes: rules, each a deterministic automaton whose states lead on by a byte or
// by a call of another rule, after which the caller goes on. What a text may begin with is a set of stacks of states
// (stacks.h): only the choice between calls, or between a call and what follows, is not deterministic.
//
// Every state of a grammar can be continued to a whole text without nesting deeper than kMaxDepth: states of which this
// is not true are taken out, and `need` says for the others how deep they have to go.
//
// Thread-safety: a Grammar is immutable; a GrammarBuilder is of one thread at a time.
#ifndef KVLINK_WORKER_GRAMMAR_GRAMMAR_H_
#define KVLINK_WORKER_GRAMMAR_GRAMMAR_H_

#include <bitset>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/grammar/nfa.h"

namespace kvlink::grammar {

// Those that may be written at all.
using ByteSet = std::bitset<256>;
inline ByteSet AllBytes() { return ByteSet().set(); }

class Grammar {
 public:
  static constexpr int kMaxDepth = 64;  // calls within calls
  static constexpr int32_t kMaxStates = 1 << 15;

  struct Edge {
    uint8_t low, high;
    StateId to;
  };
  struct Call {
    StateId callee, to;
  };

  StateId start() const { return start_; }
  int32_t states() const { return static_cast<int32_t>(states_.size()) - 1; }
  // Sorted and disjoint.
  absl::Span<const Edge> edges(StateId state) const {
    return absl::MakeConstSpan(edges_).subspan(states_[state].edges, states_[state + 1].edges - states_[state].edges);
  }
  absl::Span<const Call> calls(StateId state) const {
    return absl::MakeConstSpan(calls_).subspan(states_[state].calls, states_[state + 1].calls - states_[state].calls);
  }
  // Whether its rule may end here.
  bool ends(StateId state) const { return states_[state].ends; }
  // Whether it leads on by bytes alone.
  bool plain(StateId state) const { return !ends(state) && states_[state].calls == states_[state + 1].calls; }
  // In memory.
  int64_t bytes() const;
  // How many calls deep its rule has to go at least to end, of kMaxDepth.
  int need(StateId state) const { return states_[state].need; }
  // The state behind a byte; -1: none.
  StateId Next(StateId state, uint8_t byte) const {
    for (uint32_t i = states_[state].edges; i < states_[state + 1].edges; ++i) {
      if (byte <= edges_[i].high) return byte >= edges_[i].low ? edges_[i].to : -1;
    }
    return -1;
  }

 private:
  friend class GrammarBuilder;
  struct State {
    uint32_t edges = 0, calls = 0;  // where its own begin; the next state's are behind them
    uint8_t need = 0;
    bool ends = false;
  };

  StateId start_ = 0;
  std::vector<State> states_;  // and one behind the last
  std::vector<Edge> edges_;
  std::vector<Call> calls_;
};

class GrammarBuilder {
 public:
  explicit GrammarBuilder(const ByteSet& bytes) : bytes_(bytes) {}

  // A rule that others may call before it is defined.
  RuleId NewRule();
  // REQUIRES: the rule is not defined yet, and the fragment is of `nfa`. INVALID_ARGUMENT: the grammar becomes too
  // large, or takes too long to make.
  absl::Status Define(RuleId rule, const Nfa& nfa, Nfa::Fragment body);
  // The texts that `start` writes. REQUIRES: every rule is defined. INVALID_ARGUMENT: there are none, of these
  // bytes and not nested too deep; a rule calls itself before it has written anything.
  absl::StatusOr<Grammar> Finish(RuleId start);

 private:
  struct State {
    std::vector<Grammar::Edge> edges;
    std::vector<std::pair<RuleId, StateId>> calls;
    bool ends = false;
    uint8_t need = Grammar::kMaxDepth + 1;
  };

  void FindNeeds();
  bool CallsItself() const;

  const ByteSet bytes_;
  std::vector<StateId> starts_;  // by rule; -1: not defined yet
  std::vector<State> states_;
  int64_t work_ = 0;
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_GRAMMAR_H_
