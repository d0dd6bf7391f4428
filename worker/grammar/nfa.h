// What one rule of a grammar writes, as a nondeterministic automaton over bytes and calls of other rules, put together
// from fragments. GrammarBuilder makes it deterministic.
//
// Thread-safety: one thread at a time. A fragment belongs to its Nfa and is used once.
#ifndef KVLINK_WORKER_GRAMMAR_NFA_H_
#define KVLINK_WORKER_GRAMMAR_NFA_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/grammar/characters.h"

namespace kvlink::grammar {

using RuleId = int32_t;
using StateId = int32_t;

class Nfa {
 public:
  static constexpr int32_t kMaxNfaStates = 1 << 17;
  static constexpr int64_t kUnbounded = std::numeric_limits<int64_t>::max();

  // From `start` to `end`; nothing enters the first or leaves the last but what holds the fragment.
  struct Fragment {
    StateId start = 0, end = 0;
  };
  struct Edge {
    StateId from;
    uint8_t low, high;
    StateId to;
  };
  struct Call {
    StateId from;
    RuleId rule;
    StateId to;
  };
  struct Epsilon {
    StateId from, to;
  };

  Fragment Empty();    // the empty text
  Fragment Nothing();  // no text at all
  Fragment Bytes(absl::string_view bytes);
  Fragment Range(uint8_t low, uint8_t high);
  // Of single characters, written within the quotes of a JSON string; those that are not Writable are left out.
  Fragment Characters(const CharacterSet& set);
  // What the rule writes. A rule that writes the empty text must not be repeated without a bound.
  Fragment CallOf(RuleId rule);
  Fragment Sequence(absl::Span<const Fragment> parts);
  Fragment Alternatives(absl::Span<const Fragment> parts);
  Fragment Optional(Fragment part);
  Fragment Star(Fragment part);
  // Between `min` and `max` times (kUnbounded) what `make` makes anew each time.
  Fragment Repeat(int64_t min, int64_t max, const std::function<Fragment()>& make);

  // For rules that count: states of their own, and what leads from one to another.
  StateId NewState();
  void AddEdge(StateId from, uint8_t low, uint8_t high, StateId to);
  void Link(StateId from, Fragment part, StateId to);
  void Skip(StateId from, StateId to);

  // Whether it has become too large. It is of no use then, and what is added has no effect.
  bool full() const { return full_; }
  int32_t states() const { return states_; }
  absl::Span<const Edge> edges() const { return edges_; }
  absl::Span<const Call> calls() const { return calls_; }
  absl::Span<const Epsilon> epsilons() const { return epsilons_; }

 private:
  int32_t states_ = 0;
  bool full_ = false;
  std::vector<Edge> edges_;
  std::vector<Call> calls_;
  std::vector<Epsilon> epsilons_;
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_NFA_H_
