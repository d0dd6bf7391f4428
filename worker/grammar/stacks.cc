// Stacks share the frames below their tops. A frame is never changed, and made once on each level.
#include "worker/grammar/stacks.h"

#include <algorithm>

namespace kvlink::grammar {
namespace {

// Of states that one byte leads to without another; each way down reaches a stack long before. They are compared with
// each other.
constexpr size_t kMaxSeen = 4 * Stacks::kMaxStacks;
// Places in a list that are compared in one step.
constexpr size_t kComparedAtOnce = 4;

}  // namespace

Stacks::Stacks(const Grammar* grammar) : grammar_(grammar) {
  Enter(grammar->start(), kBottom, 0);
  levels_.push_back({0, frames_.size(), ended_});
}

Stacks::Stacks(const Grammar* grammar, StateId state, int32_t depth)
    : grammar_(grammar), tops_({{state, kBottom, depth}}), levels_({{0, 0, false}}) {}

void Stacks::AppendStack(const Top& top, std::vector<StateId>& out) const {
  out.push_back(top.state);
  for (int32_t frame = top.below; frame != kBottom; frame = frames_[frame].below) out.push_back(frames_[frame].state);
  out.push_back(-1);
}

bool Stacks::Push(uint8_t byte) {
  const size_t begin = levels_.back().begin, end = tops_.size();
  first_top_ = end;
  first_frame_ = frames_.size();
  ended_ = false;
  seen_.clear();
  steps_ += static_cast<int64_t>(end - begin);
  for (size_t i = begin; i < end; ++i) {
    const Top top = tops_[i];  // the list grows
    const StateId next = grammar_->Next(top.state, byte);
    if (next >= 0 && Fits(next, top.depth)) Enter(next, top.below, top.depth);
  }
  if (tops_.size() == end && !ended_) {
    frames_.resize(first_frame_);
    return false;
  }
  levels_.push_back({end, frames_.size(), ended_});
  return true;
}

bool Stacks::PushAll(absl::string_view bytes) {
  const size_t levels = levels_.size();
  for (const char byte : bytes) {
    if (Push(static_cast<uint8_t>(byte))) continue;
    Truncate(levels);
    return false;
  }
  return true;
}

void Stacks::Truncate(size_t levels) {
  if (levels >= levels_.size()) return;
  tops_.resize(levels_[levels].begin);
  levels_.resize(levels);
  frames_.resize(levels_.back().frames);
}

void Stacks::Settle() {
  tops_.erase(tops_.begin(), tops_.begin() + static_cast<int64_t>(levels_.back().begin));
  std::vector<int32_t> places(frames_.size(), kBottom);
  std::vector<bool> used(frames_.size());
  for (const Top& top : tops_) {
    for (int32_t frame = top.below; frame != kBottom && !used[frame]; frame = frames_[frame].below) used[frame] = true;
  }
  std::vector<Top> kept;
  for (size_t i = 0; i < frames_.size(); ++i) {
    if (!used[i]) continue;
    places[i] = static_cast<int32_t>(kept.size());
    Top frame = frames_[i];
    if (frame.below != kBottom) frame.below = places[frame.below];  // a frame is behind the one below it
    kept.push_back(frame);
  }
  for (Top& top : tops_) {
    if (top.below != kBottom) top.below = places[top.below];
  }
  frames_ = std::move(kept);
  levels_ = {{0, frames_.size(), levels_.back().ended}};
}

void Stacks::Only(Top top) {
  tops_ = {top};
  levels_ = {{0, frames_.size(), false}};
}

void Stacks::Return(int32_t below) {
  tops_.clear();
  first_top_ = 0;
  first_frame_ = frames_.size();
  seen_.clear();
  ended_ = below == kBottom;
  if (below != kBottom) {
    const Top frame = frames_[below];
    Enter(frame.state, frame.below, frame.depth);
  }
  levels_ = {{0, frames_.size(), ended_}};
}

bool Stacks::Fits(StateId state, int32_t depth) {
  const bool fits = depth + grammar_->need(state) <= Grammar::kMaxDepth;
  limited_ = limited_ || !fits;
  return fits;
}

bool Stacks::Seen(StateId state, int32_t below) {
  steps_ += static_cast<int64_t>(seen_.size() / kComparedAtOnce) + 1;
  const std::pair<StateId, int32_t> own = {state, below};
  if (seen_.size() >= kMaxSeen || std::find(seen_.begin(), seen_.end(), own) != seen_.end()) return true;
  seen_.push_back(own);
  return false;
}

int32_t Stacks::Frame(StateId state, int32_t below, int32_t depth) {
  steps_ += static_cast<int64_t>((frames_.size() - first_frame_) / kComparedAtOnce) + 1;
  for (size_t i = first_frame_; i < frames_.size(); ++i) {
    if (frames_[i].state == state && frames_[i].below == below) return static_cast<int32_t>(i);
  }
  frames_.push_back({state, below, depth});
  return static_cast<int32_t>(frames_.size()) - 1;
}

void Stacks::Enter(StateId state, int32_t below, int32_t depth) {
  const Grammar& grammar = *grammar_;
  const bool first = tops_.size() == first_top_;  // then none can be there twice
  const bool plain = grammar.plain(state);
  if (!(first && plain) && Seen(state, below)) return;
  if (first && plain) seen_.push_back({state, below});
  if (!grammar.edges(state).empty() && tops_.size() - first_top_ < kMaxStacks) tops_.push_back({state, below, depth});
  if (plain) return;
  for (const Grammar::Call& call : grammar.calls(state)) {
    if (!Fits(call.callee, depth + 1) || !Fits(call.to, depth)) continue;
    Enter(call.callee, Frame(call.to, below, depth), depth + 1);
  }
  if (!grammar.ends(state)) return;
  if (below == kBottom) {
    ended_ = true;
  } else {
    const Top frame = frames_[below];
    Enter(frame.state, frame.below, frame.depth);
  }
}

}  // namespace kvlink::grammar
