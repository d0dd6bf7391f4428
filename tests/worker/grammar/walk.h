// Texts in a grammar: whether it writes one, and random ones that it does.
#ifndef KVLINK_TESTS_WORKER_GRAMMAR_WALK_H_
#define KVLINK_TESTS_WORKER_GRAMMAR_WALK_H_

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/grammar/grammar.h"
#include "worker/grammar/stacks.h"

namespace kvlink::grammar::testing {

// How many bytes of the text can come; all of them does not mean that it may end there.
inline size_t Accepted(const Grammar& grammar, absl::string_view text) {
  Stacks stacks(&grammar);
  for (size_t i = 0; i < text.size(); ++i) {
    if (!stacks.Push(static_cast<uint8_t>(text[i]))) return i;
    stacks.Settle();
  }
  return text.size();
}

inline bool Writes(const Grammar& grammar, absl::string_view text) {
  Stacks stacks(&grammar);
  for (const char byte : text) {
    if (!stacks.Push(static_cast<uint8_t>(byte))) return false;
    stacks.Settle();
  }
  return stacks.ended();
}

// The way to an end: how many bytes each state is away from the end of its rule.
class Ends {
 public:
  explicit Ends(const Grammar& grammar) : grammar_(grammar), bytes_(grammar.states(), kFar) {
    for (bool changed = true; changed;) {
      changed = false;
      for (StateId state = grammar.states() - 1; state >= 0; --state) {
        int64_t least = grammar.ends(state) ? 0 : bytes_[state];
        for (const Grammar::Edge& edge : grammar.edges(state)) least = std::min(least, 1 + bytes_[edge.to]);
        for (const Grammar::Call& call : grammar.calls(state)) {
          least = std::min(least, bytes_[call.callee] + bytes_[call.to]);
        }
        changed = changed || least < bytes_[state];
        bytes_[state] = least;
      }
    }
  }

  // Of the nearest stack.
  int64_t Distance(const Stacks& stacks) const {
    int64_t least = stacks.ended() ? 0 : kFar;
    for (const Stacks::Top& top : stacks.tops()) {
      std::vector<StateId> states;
      stacks.AppendStack(top, states);
      int64_t bytes = 0;
      for (const StateId state : states) bytes += state < 0 ? 0 : bytes_[state];
      least = std::min(least, bytes);
    }
    return least;
  }
  // A byte that leads to the nearest end; any but the first that does, now and then.
  uint8_t Nearest(const Stacks& stacks) const {
    Stacks next = stacks;
    const size_t levels = next.levels();
    int64_t least = kFar;
    uint8_t nearest = 0;
    for (int byte = 0; byte < 256; ++byte) {
      if (!next.Push(static_cast<uint8_t>(byte))) continue;
      if (const int64_t distance = Distance(next); distance < least) {
        least = distance;
        nearest = static_cast<uint8_t>(byte);
      }
      next.Truncate(levels);
    }
    return nearest;
  }

 private:
  static constexpr int64_t kFar = int64_t{1} << 40;
  const Grammar& grammar_;
  std::vector<int64_t> bytes_;
};

}  // namespace kvlink::grammar::testing

#endif  // KVLINK_TESTS_WORKER_GRAMMAR_WALK_H_
