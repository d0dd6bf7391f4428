// Where a text stands in a grammar: all stacks of states that what was written so far may have led to. Levels are kept,
// one for each byte, so that the search for tokens can go back.
//
// A stack beyond the limit is dropped: every one that is kept can be completed, so this forbids some texts of a grammar
// with very many alternatives at once, and never allows a wrong one or leads to a dead end.
//
// Thread-safety: one thread at a time. Lifetime: the grammar outlives the stacks.
#ifndef KVLINK_WORKER_GRAMMAR_STACKS_H_
#define KVLINK_WORKER_GRAMMAR_STACKS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/grammar/grammar.h"

namespace kvlink::grammar {

class Stacks {
 public:
  static constexpr int32_t kBottom = -1;
  static constexpr size_t kMaxStacks = 256;

  // The state on top of a stack, and the frame below it: where the caller goes on.
  struct Top {
    StateId state;
    int32_t below;  // a frame, or kBottom
    int32_t depth;  // frames below
  };

  // At the beginning of a text.
  explicit Stacks(const Grammar* grammar);
  // One stack of a single state; `depth`: how deep it is taken to be.
  Stacks(const Grammar* grammar, StateId state, int32_t depth);

  // The stacks after the last byte. Each has a state on top that some byte may follow.
  absl::Span<const Top> tops() const {
    return absl::MakeConstSpan(tops_).subspan(levels_.back().begin, tops_.size() - levels_.back().begin);
  }
  // Whether a stack has become empty: the text may end here.
  bool ended() const { return levels_.back().ended; }
  // Whether a stack has been left out because it would have become too deep.
  bool limited() const { return limited_; }
  // What writing has cost so far, in steps of a few nanoseconds: for who must stop at some time.
  int64_t steps() const { return steps_; }
  // Appends the states of a stack, from its top, and -1.
  void AppendStack(const Top& top, std::vector<StateId>& out) const;

  // Writes a byte, on a new level. False, and nothing changes, if it cannot follow.
  bool Push(uint8_t byte);
  // The same for several, each on a level of its own.
  bool PushAll(absl::string_view bytes);
  size_t levels() const { return levels_.size(); }
  // Back to the first `levels`, at least 1.
  void Truncate(size_t levels);
  // Makes the last level the only one.
  void Settle();
  // Makes the only level that of this stack alone, one of tops().
  void Only(Top top);
  // Makes the only level that in which the caller at the frame `below` goes on. Ended, if it is kBottom.
  void Return(int32_t below);

 private:
  struct Level {
    size_t begin = 0;   // of its tops
    size_t frames = 0;  // behind its frames
    bool ended = false;
  };

  // Whether a state can be completed at this depth.
  bool Fits(StateId state, int32_t depth);
  // Adds the stacks of a state: its own, those of the rules that it calls, and those of its caller if it ends.
  void Enter(StateId state, int32_t below, int32_t depth);
  bool Seen(StateId state, int32_t below);
  int32_t Frame(StateId state, int32_t below, int32_t depth);

  const Grammar* grammar_;
  std::vector<Top> tops_, frames_;
  std::vector<Level> levels_;
  bool limited_ = false;
  int64_t steps_ = 0;
  // Of the level that is being made.
  size_t first_top_ = 0, first_frame_ = 0;
  bool ended_ = false;
  std::vector<std::pair<StateId, int32_t>> seen_;
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_STACKS_H_
