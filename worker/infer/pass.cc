// A pass as its conversations see it: what each feeds, where its keys and values go, and what becomes of it. There is
// one way through: the pieces of a prompt, the steps of a batch and the turns of a chat all feed rows here.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {

absl::Status Generator::CheckRoom(const Conversation& conversation, int64_t tokens) const {
  const int64_t context = model_->config().context;
  if (conversation.length_ + tokens <= context) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("the context is full: ", conversation.length_, " tokens and ", tokens,
                                            " more exceed the model's limit of ", context));
}

void Generator::Pass(absl::Span<Work> works, const Limits& limits) {
  const Call call(limits);
  std::vector<Work*> shared;
  for (Work& work : works) {
    if (!work.conversation->observes()) shared.push_back(&work);
  }
  if (!shared.empty()) PassOver(shared, call, /*together=*/false);
  for (Work& work : works) {
    Work* const alone = &work;
    if (std::find(shared.begin(), shared.end(), alone) == shared.end()) PassOver({&alone, 1}, call, false);
  }
}

absl::Status Generator::StepBatch(absl::Span<Conversation* const> conversations, const Limits& limits) {
  if (conversations.empty()) return absl::OkStatus();
  const Call call(limits);
  std::vector<Work> works;
  std::vector<Work*> together;
  for (Conversation* conversation : conversations) works.push_back({conversation});
  for (Work& work : works) together.push_back(&work);
  PassOver(together, call, /*together=*/true);
  return works.front().status;
}

void Generator::PassOver(absl::Span<Work* const> works, const Call& call, bool together) {
  const absl::Time began = SteadyNow();
  std::vector<Rows> rows(works.size());
  for (size_t i = 0; i < works.size(); ++i) FillRows(*works[i], &rows[i]);
  Feed(absl::MakeSpan(rows), call, together);
  for (size_t i = 0; i < works.size(); ++i) {
    Conversation& conversation = *works[i]->conversation;
    works[i]->status = rows[i].status;
    works[i]->lacks_pages = rows[i].lacks_pages;
    works[i]->lapsed = rows[i].lapsed;
    works[i]->tokens = static_cast<int64_t>(rows[i].tokens.size());
    if (!rows[i].status.ok()) continue;
    if (conversation.prompt_ != nullptr) {
      RequestStats& stats = conversation.stats_;
      if (stats.time_to_first_token == absl::ZeroDuration()) stats.phases.Computed(began, SteadyNow());
      Advance(conversation, static_cast<int64_t>(rows[i].tokens.size()));
    } else {
      conversation.stats_.decode_time += SteadyNow() - began;
      ++conversation.stats_.decoded_tokens;
    }
  }
}

void Generator::FillRows(const Work& work, Rows* rows) const {
  Conversation& conversation = *work.conversation;
  rows->conversation = &conversation;
  if (conversation.prompt_ == nullptr) {
    rows->status = CheckRoom(conversation, 1);
    rows->tokens = absl::MakeConstSpan(&conversation.next_.token, 1);
    rows->positions = absl::MakeConstSpan(&conversation.length_, 1);
    return;
  }
  Conversation::Prompt& prompt = *conversation.prompt_;
  const link::LinkPlan& plan = prompt.plan;
  const int64_t left = conversation.prompt_left();
  int64_t count = std::min({std::max<int64_t>(work.tokens, 1), options_.prefill_chunk, left});
  if (plan.observe == link::Observe::kKeyMass && prompt.fed + count > plan.question) {
    // Sums of a split question would be rounded in another way, and so choose other tokens.
    count = prompt.fed < plan.question ? plan.question - prompt.fed : std::min(options_.prefill_chunk, left);
  }
  rows->tokens = absl::MakeConstSpan(plan.fresh_tokens).subspan(prompt.fed, count);
  rows->positions = absl::MakeConstSpan(plan.fresh_positions).subspan(prompt.fed, count);
  rows->sample = plan.observe == link::Observe::kNothing && count == left;
  rows->layers = plan.layers;
  rows->first_observer = std::clamp<int64_t>(plan.question - prompt.fed, 0, count);
  const bool observers = plan.observe != link::Observe::kKeyMass || rows->first_observer < count;
  rows->observe = observers ? plan.observe : link::Observe::kNothing;
  rows->observed = &prompt.observed;
}

void Generator::Feed(absl::Span<Rows> rows, const Call& call, bool together) {
  bool holds =
      std::any_of(rows.begin(), rows.end(), [](const Rows& one) { return one.conversation->holds_documents(); });
  for (Rows& one : rows) {
    Conversation& conversation = *one.conversation;
    if (one.status.ok()) one.status = ReadDocuments(conversation, holds, call);
    holds = holds || conversation.holds_documents();
    if (!one.status.ok()) continue;
    auto slots = conversation.sequence_.Append(one.positions);
    conversation.pages_held_ = static_cast<int64_t>(conversation.sequence_.block_table().size());
    one.status = slots.status();
    one.lacks_pages = absl::IsResourceExhausted(slots.status());
    if (slots.ok()) one.slots = *std::move(slots);
  }
  Run(rows, call, together);
  const auto failed = std::find_if(rows.begin(), rows.end(), [](const Rows& one) { return !one.status.ok(); });
  for (Rows& one : rows) {
    if (together && failed != rows.end()) one.status = failed->status;
    Conversation& conversation = *one.conversation;
    if (one.status.ok()) {
      conversation.length_ = one.positions.back() + 1;
      conversation.replaced_ = {};
      if (one.sample) conversation.Take(std::move(one.sampled));
    } else {
      conversation.Truncate(conversation.sequence_.tokens() - static_cast<int64_t>(one.slots.size()));
    }
  }
}

void Generator::Run(absl::Span<Rows> rows, const Call& call, bool together) {
  while (true) {
    std::vector<Rows*> able;
    std::vector<Conversation*> conversations;
    for (Rows& one : rows) {
      if (!one.status.ok()) continue;
      able.push_back(&one);
      conversations.push_back(one.conversation);
    }
    if (able.empty() || (together && able.size() < rows.size())) return;
    Residents useless;
    const absl::Status status = Forward(able, call, &useless);
    if (useless.empty()) {
      for (Rows* one : able) one->status.Update(status);  // sampling may have failed one alone
      return;
    }
    Discard(useless, status, conversations);
    for (Rows* one : able) {
      if (together) {
        one->status = ReadDocuments(*one->conversation, /*holds=*/true, call);
      } else if (one->conversation->lacks_documents()) {
        one->status = absl::UnavailableError("an encoding that the pass read turned out to be unusable");
        one->lapsed = true;
      }
    }
  }
}

absl::Status Generator::Extend(Conversation& conversation, absl::Span<const int32_t> tokens, const Limits& limits) {
  return ExtendRows(conversation, tokens, limits, nullptr);
}

absl::StatusOr<std::vector<float>> Generator::Score(Conversation& conversation, absl::Span<const int32_t> tokens,
                                                    const Limits& limits) {
  std::vector<float> scores;
  KVLINK_RETURN_IF_ERROR(ExtendRows(conversation, tokens, limits, &scores));
  return scores;
}

absl::Status Generator::ExtendRows(Conversation& conversation, absl::Span<const int32_t> tokens, const Limits& limits,
                                   std::vector<float>* scores) {
  if (tokens.empty()) return absl::InvalidArgumentError("generator: no tokens to feed");
  const Call call(limits);
  KVLINK_RETURN_IF_ERROR(CheckRoom(conversation, static_cast<int64_t>(tokens.size())));
  const int64_t tokens_before = conversation.sequence_.tokens();
  const int64_t length_before = conversation.length_;
  for (size_t begin = 0; begin < tokens.size(); begin += options_.prefill_chunk) {
    Rows rows;
    rows.conversation = &conversation;
    rows.tokens = tokens.subspan(begin, options_.prefill_chunk);
    rows.sample = begin + rows.tokens.size() == tokens.size();
    rows.scores = scores;
    std::vector<int64_t> positions(rows.tokens.size());
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = conversation.length_ + static_cast<int64_t>(i);
    rows.positions = positions;
    Feed(absl::MakeSpan(&rows, 1), call, /*together=*/true);
    if (!rows.status.ok()) {
      conversation.Truncate(tokens_before);
      conversation.length_ = length_before;
      return rows.status;
    }
  }
  return absl::OkStatus();
}

}  // namespace kvlink::infer
