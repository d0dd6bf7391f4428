// The bytes that may come next are allowed first: each is a token by itself (Vocabulary::bytes), and so a search that
// has to stop early leaves no dead end.
#include "worker/grammar/masks.h"

#include <algorithm>

namespace kvlink::grammar {
namespace {

// Of an entry beside its bits and its key.
constexpr int64_t kEntryBytes = 128;
// Few tokens nest deeper than from here to the limit.
constexpr int32_t kSharedDepth = Grammar::kMaxDepth * 3 / 4;

}  // namespace

Masks::Masks(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const Vocabulary> vocabulary)
    : grammar_(std::move(grammar)),
      vocabulary_(std::move(vocabulary)),
      words_(static_cast<size_t>((vocabulary_->size() + 31) / 32)) {}

void Masks::Allowed(const Stacks& stacks, absl::Span<uint32_t> bits) {
  std::vector<StateId> key;
  for (const Stacks::Top& top : stacks.tops()) stacks.AppendStack(top, key);
  std::shared_ptr<const Bits> found;
  {
    MutexLock lock(&mutex_);
    const auto kept = found_.find(key);
    if (kept != found_.end()) found = kept->second;
  }
  if (found == nullptr) {
    auto searched = std::make_shared<Bits>(words_);
    Search(stacks, *searched);
    found = searched;
    MutexLock lock(&mutex_);
    // Also if it was cut short: another search would be, too.
    Keep(static_cast<int64_t>((words_ + key.size()) * sizeof(uint32_t)) + kEntryBytes);
    found_.try_emplace(std::move(key), found);
  }
  const size_t count = std::min(bits.size(), found->size());
  std::copy_n(found->begin(), count, bits.begin());
  std::fill(bits.begin() + static_cast<int64_t>(count), bits.end(), 0);
}

void Masks::Keep(int64_t bytes) {
  if (kept_bytes_ + bytes > kMaxKeptBytes) {
    kept_bytes_ = 0;
    inner_.clear();
    found_.clear();
  }
  kept_bytes_ += bytes;
}

void Masks::Search(const Stacks& stacks, Bits& bits) {
  AllowFirstBytes(stacks, bits);
  int64_t steps = kMaxSteps;
  for (const Stacks::Top& top : stacks.tops()) {
    if (steps <= 0) return;
    const InnerPtr inner = InnerOf(top.state, top.depth, steps);
    for (size_t i = 0; i < words_; ++i) bits[i] |= inner->bits[i];
    if (top.below == Stacks::kBottom || inner->exits.empty()) continue;
    Stacks behind = stacks;
    behind.Return(top.below);
    steps -= behind.steps() - stacks.steps();
    for (const uint32_t node : inner->exits) Walk(node, behind, bits, nullptr, steps);
  }
}

Masks::InnerPtr Masks::InnerOf(StateId state, int32_t depth, int64_t& steps) {
  if (depth < kSharedDepth) {
    InnerPtr shared = InnerAt(state, kSharedDepth, steps);
    if (!shared->limited) return shared;
  }
  return InnerAt(state, depth, steps);
}

Masks::InnerPtr Masks::InnerAt(StateId state, int32_t depth, int64_t& steps) {
  const std::pair<StateId, int32_t> key = {state, depth};
  {
    MutexLock lock(&mutex_);
    const auto kept = inner_.find(key);
    if (kept != inner_.end()) return kept->second;
  }
  auto inner = std::make_shared<Inner>();
  inner->bits.resize(words_);
  Stacks alone(grammar_.get(), state, depth);
  Walk(0, alone, inner->bits, &inner->exits, steps);
  inner->limited = alone.limited();
  if (steps > 0) {
    MutexLock lock(&mutex_);
    Keep(static_cast<int64_t>((words_ + inner->exits.size()) * sizeof(uint32_t)) + kEntryBytes);
    inner_.try_emplace(key, inner);
  }
  return inner;
}

void Masks::Walk(uint32_t node, Stacks& stacks, Bits& bits, std::vector<uint32_t>* exits, int64_t& steps) const {
  const size_t levels = stacks.levels();
  const int depth = vocabulary_->node(node).depth;
  for (uint32_t i = node + 1; i < vocabulary_->node(node).end && steps > 0;) {
    const Vocabulary::Node& next = vocabulary_->node(i);
    stacks.Truncate(levels + static_cast<size_t>(next.depth - depth - 1));
    const int64_t before = stacks.steps();
    const bool fits = stacks.Push(next.byte);
    steps -= stacks.steps() - before;
    if (!fits) {
      i = next.end;
      continue;
    }
    SetTokens(i, bits);
    const bool leaf = next.end == i + 1;
    if (exits != nullptr && stacks.ended() && !leaf) exits->push_back(i);
    i = stacks.tops().empty() ? next.end : i + 1;
  }
  stacks.Truncate(levels);
}

void Masks::AllowFirstBytes(const Stacks& stacks, Bits& bits) const {
  const Vocabulary& vocabulary = *vocabulary_;
  for (uint32_t i = 1; i < vocabulary.nodes(); i = vocabulary.node(i).end) {
    const bool allowed = std::any_of(stacks.tops().begin(), stacks.tops().end(), [&](const Stacks::Top& top) {
      const StateId next = grammar_->Next(top.state, vocabulary.node(i).byte);
      return next >= 0 && top.depth + grammar_->need(next) <= Grammar::kMaxDepth;
    });
    if (allowed) SetTokens(i, bits);
  }
}

void Masks::SetTokens(uint32_t node, Bits& bits) const {
  for (const int32_t token : vocabulary_->tokens(node)) bits[token / 32] |= uint32_t{1} << (token % 32);
}

}  // namespace kvlink::grammar
