// The subset construction, rule by rule, with calls as letters beside the bytes. Of a set only those states are kept
// that lead on by a letter or end the rule: they tell sets apart, and there are few of them.
#include "worker/grammar/grammar.h"

#include <algorithm>
#include <bitset>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace kvlink::grammar {
namespace {

using Subset = std::vector<StateId>;

// Of all rules together; a few seconds' tenths.
constexpr int64_t kMaxWork = int64_t{1} << 25;
// What it took to make the Nfa of a rule, also where nothing leads: by its states, and by its edges.
constexpr int64_t kStateWork = 64, kEdgeWork = 8;
// Rounds in which needs are found; one that is still too high then is only more careful than it has to be.
constexpr int kMaxRounds = 256;

absl::Status TooLargeError() {
  return absl::InvalidArgumentError(absl::StrCat("asks for a grammar of more than ", Grammar::kMaxStates,
                                                 " states; shorten what counts or lists much"));
}

// The transitions of an Nfa by the state that they leave.
template <typename T>
class ByState {
 public:
  ByState(absl::Span<const T> all, int32_t states) : all_(all.begin(), all.end()), begins_(states + 1) {
    std::stable_sort(all_.begin(), all_.end(), [](const T& a, const T& b) { return a.from < b.from; });
    for (const T& one : all_) ++begins_[one.from + 1];
    for (int32_t i = 0; i < states; ++i) begins_[i + 1] += begins_[i];
  }
  absl::Span<const T> operator[](StateId state) const {
    return absl::MakeConstSpan(all_).subspan(begins_[state], begins_[state + 1] - begins_[state]);
  }

 private:
  std::vector<T> all_;
  std::vector<size_t> begins_;
};

class Subsets {
 public:
  Subsets(const Nfa& nfa, Nfa::Fragment body)
      : edges_(nfa.edges(), nfa.states()),
        calls_(nfa.calls(), nfa.states()),
        epsilons_(nfa.epsilons(), nfa.states()),
        end_(body.end),
        seen_(nfa.states()) {}

  absl::Span<const Nfa::Edge> edges(StateId state) const { return edges_[state]; }
  absl::Span<const Nfa::Call> calls(StateId state) const { return calls_[state]; }

  // What is reached from `states` without a letter.
  Subset Close(Subset states) {
    ++round_;
    Subset closed;
    while (!states.empty()) {
      const StateId state = states.back();
      states.pop_back();
      if (seen_[state] == round_) continue;
      seen_[state] = round_;
      ++work_;
      if (state == end_ || !edges_[state].empty() || !calls_[state].empty()) closed.push_back(state);
      for (const Nfa::Epsilon& epsilon : epsilons_[state]) states.push_back(epsilon.to);
    }
    std::sort(closed.begin(), closed.end());
    return closed;
  }
  int64_t work() const { return work_; }

 private:
  const ByState<Nfa::Edge> edges_;
  const ByState<Nfa::Call> calls_;
  const ByState<Nfa::Epsilon> epsilons_;
  const StateId end_;
  std::vector<int64_t> seen_;
  int64_t round_ = 0, work_ = 0;
};

// Ranges of `bytes` that all edges of a subset treat alike, with the states that they lead to.
std::vector<std::pair<Nfa::Edge, Subset>> Intervals(const Subsets& subsets, const Subset& subset, const ByteSet& bytes,
                                                    int64_t* work) {
  std::vector<Nfa::Edge> edges;
  std::bitset<257> cuts;
  for (int byte = 1; byte < 256; ++byte) cuts[byte] = bytes[byte] != bytes[byte - 1];
  for (const StateId state : subset) {
    for (const Nfa::Edge& edge : subsets.edges(state)) {
      edges.push_back(edge);
      cuts[edge.low] = cuts[edge.high + 1] = true;
    }
  }
  std::vector<std::pair<Nfa::Edge, Subset>> intervals;
  for (int low = 0; low < 256;) {
    int high = low;
    while (high < 255 && !cuts[high + 1]) ++high;
    Subset targets;
    for (const Nfa::Edge& edge : edges) {
      if (bytes[low] && edge.low <= low && high <= edge.high) targets.push_back(edge.to);
    }
    *work += static_cast<int64_t>(edges.size());
    if (!targets.empty()) {
      intervals.push_back({{0, static_cast<uint8_t>(low), static_cast<uint8_t>(high), 0}, std::move(targets)});
    }
    low = high + 1;
  }
  return intervals;
}

}  // namespace

RuleId GrammarBuilder::NewRule() {
  starts_.push_back(-1);
  return static_cast<RuleId>(starts_.size()) - 1;
}

absl::Status GrammarBuilder::Define(RuleId rule, const Nfa& nfa, Nfa::Fragment body) {
  work_ += kStateWork * nfa.states() + kEdgeWork * static_cast<int64_t>(nfa.edges().size());
  if (nfa.full() || work_ > kMaxWork) return TooLargeError();
  Subsets subsets(nfa, body);
  std::vector<Subset> found;
  absl::flat_hash_map<Subset, StateId> numbers;
  const auto first = static_cast<StateId>(states_.size());
  const auto number_of = [&](Subset states) {
    Subset closed = subsets.Close(std::move(states));
    const auto [number, added] = numbers.try_emplace(closed, first + static_cast<StateId>(found.size()));
    if (added) found.push_back(std::move(closed));
    return number->second;
  };
  starts_[rule] = number_of({body.start});
  int64_t work = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const Subset subset = found[i];  // `found` grows
    State state;
    state.ends = std::binary_search(subset.begin(), subset.end(), body.end);
    for (auto& [range, targets] : Intervals(subsets, subset, bytes_, &work)) {
      const StateId to = number_of(std::move(targets));
      if (!state.edges.empty() && state.edges.back().to == to && state.edges.back().high + 1 == range.low) {
        state.edges.back().high = range.high;
      } else {
        state.edges.push_back({range.low, range.high, to});
      }
    }
    std::map<RuleId, Subset> called;
    for (const StateId from : subset) {
      for (const Nfa::Call& call : subsets.calls(from)) called[call.rule].push_back(call.to);
    }
    for (auto& [callee, targets] : called) state.calls.push_back({callee, number_of(std::move(targets))});
    states_.push_back(std::move(state));
    if (first + static_cast<int64_t>(found.size()) > Grammar::kMaxStates || work_ + work + subsets.work() > kMaxWork) {
      return TooLargeError();
    }
  }
  work_ += work + subsets.work();
  return absl::OkStatus();
}

// need(s) is the least of: 0 if the rule ends here; need(t) of a state behind a byte; and of a call, what the callee
// needs and one more, or what the caller needs afterwards, whichever is greater. Found from above, so each value is one
// that some way to the end has.
void GrammarBuilder::FindNeeds() {
  bool changed = true;
  for (int round = 0; changed && round < kMaxRounds; ++round) {
    changed = false;
    for (size_t i = states_.size(); i-- > 0;) {  // states lead on mostly to those behind them
      State& state = states_[i];
      int need = state.ends ? 0 : state.need;
      for (const Grammar::Edge& edge : state.edges) need = std::min<int>(need, states_[edge.to].need);
      for (const auto& [rule, to] : state.calls) {
        need = std::min<int>(need, std::max<int>(states_[starts_[rule]].need + 1, states_[to].need));
      }
      changed = changed || need < state.need;
      state.need = static_cast<uint8_t>(need);
    }
  }
}

// Whether calls, and states behind calls that may write nothing, lead back to a state without a byte.
bool GrammarBuilder::CallsItself() const {
  std::vector<bool> empty(states_.size());  // the rest of the rule may write nothing
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = states_.size(); i-- > 0;) {
      bool may = states_[i].ends;
      for (const auto& [rule, to] : states_[i].calls) may = may || (empty[starts_[rule]] && empty[to]);
      if (may && !empty[i]) empty[i] = changed = true;
    }
  }
  enum : uint8_t { kNew, kOpen, kDone };
  std::vector<uint8_t> marks(states_.size(), kNew);
  std::vector<std::pair<StateId, size_t>> path;  // a state, and which of its steps comes next
  for (size_t root = 0; root < states_.size(); ++root) {
    if (marks[root] != kNew) continue;
    path.push_back({static_cast<StateId>(root), 0});
    while (!path.empty()) {
      auto& [state, step] = path.back();
      marks[state] = kOpen;
      const auto& calls = states_[state].calls;
      if (step == 2 * calls.size()) {
        marks[state] = kDone;
        path.pop_back();
        continue;
      }
      const auto& [rule, to] = calls[step / 2];
      const bool behind = step++ % 2 == 1;
      if (behind && !empty[starts_[rule]]) continue;
      const StateId next = behind ? to : starts_[rule];
      if (marks[next] == kOpen) return true;
      if (marks[next] == kNew) path.push_back({next, 0});
    }
  }
  return false;
}

int64_t Grammar::bytes() const {
  return static_cast<int64_t>(states_.capacity() * sizeof(State) + edges_.capacity() * sizeof(Edge) +
                              calls_.capacity() * sizeof(Call));
}

absl::StatusOr<Grammar> GrammarBuilder::Finish(RuleId start) {
  if (CallsItself()) return absl::InvalidArgumentError("refers to itself before it says what a value is");
  FindNeeds();
  if (states_[starts_[start]].need > Grammar::kMaxDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("allows no value that can be written and is nested less than ", Grammar::kMaxDepth, " deep"));
  }
  const auto lives = [this](StateId state) { return states_[state].need <= Grammar::kMaxDepth; };
  Grammar grammar;
  grammar.start_ = starts_[start];
  for (const State& state : states_) {
    Grammar::State own;
    own.edges = static_cast<uint32_t>(grammar.edges_.size());
    own.calls = static_cast<uint32_t>(grammar.calls_.size());
    own.need = state.need;
    own.ends = state.ends;
    grammar.states_.push_back(own);
    for (const Grammar::Edge& edge : state.edges) {
      if (lives(edge.to)) grammar.edges_.push_back(edge);
    }
    for (const auto& [rule, to] : state.calls) {
      if (lives(starts_[rule]) && lives(to)) grammar.calls_.push_back({starts_[rule], to});
    }
  }
  Grammar::State behind;
  behind.edges = static_cast<uint32_t>(grammar.edges_.size());
  behind.calls = static_cast<uint32_t>(grammar.calls_.size());
  grammar.states_.push_back(behind);
  return grammar;
}

}  // namespace kvlink::grammar
