// The prefill of a request, stage by stage as its linker says. Between stages a conversation keeps its encodings, and
// the fresh tokens that the next stage does not change; everything else is computed from the tokens' embeddings on, so
// that no activations outlive a pass and any pass can be repeated.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "kernels/validate.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {
namespace {

int64_t CountHidden(absl::Span<const uint64_t> hidden) {
  int64_t count = 0;
  for (uint64_t word : hidden) count += __builtin_popcountll(word);
  return count;
}

// Ids from the end of the vocabulary on would be read as link embeddings.
absl::Status CheckTokens(absl::string_view of, absl::Span<const int32_t> tokens, int64_t vocab) {
  for (const int32_t token : tokens) {
    if (token >= 0 && token < vocab) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(of, " has the token ", token, ", but the model has ", vocab, " ids"));
  }
  return absl::OkStatus();
}

// `around`: tokens of the wrapper.
absl::Status CheckPlan(const link::LinkPlan& plan, const Request& request, int64_t around) {
  if (plan.packet && around == 0) return absl::InvalidArgumentError("plan: a packet, but the profile has no wrapper");
  for (const link::PlacedDocument& placed : plan.documents) {
    if (placed.document < 0 || placed.document >= static_cast<int64_t>(request.documents.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("plan: there is no document ", placed.document, " in the request"));
    }
    const RequestDocument& document = request.documents[placed.document];
    if (document.tokens.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("plan: document ", placed.document, " is empty"));
    }
    const size_t tokens = document.tokens.size() + (plan.packet ? around : 0);
    if (!placed.hidden.empty() && placed.hidden.size() != (tokens + 63) / 64) {
      return absl::InvalidArgumentError(absl::StrCat("plan: document ", placed.document, " has ", tokens,
                                                     " tokens, but bits of ", 64 * placed.hidden.size(), " are given"));
    }
  }
  return absl::OkStatus();
}

std::vector<absl::Span<const int32_t>> TokensOf(const Request& request) {
  std::vector<absl::Span<const int32_t>> tokens = {request.prompt.before, request.prompt.after};
  for (const RequestDocument& document : request.documents) tokens.push_back(document.tokens);
  return tokens;
}

}  // namespace

Conversation::Conversation(Generator* generator, model::KvPages* pages, const Request& request)
    : generator_(generator),
      began_(SteadyNow()),
      sequence_(pages),
      documents_(request.documents),
      counted_(request.documents.size()),
      sampling_(request.sampling),
      top_logprobs_(request.top_logprobs),
      state_(AnswerState::Create(request.rules, request.filter, TokensOf(request))),
      keep_logits_(request.keep_logits),
      write_back_(request.write_back) {}

void Conversation::Take(SampledToken token) {
  next_ = std::move(token);
  if (state_ != nullptr && !generator_->IsEnd(next_.token)) state_->Add(next_.token);
}

int64_t Conversation::prompt_left() const {
  return prompt_ == nullptr ? 0 : static_cast<int64_t>(prompt_->plan.fresh_tokens.size()) - prompt_->fed;
}

int64_t Conversation::tokens_wanted() const {
  const int64_t tokens = sequence_.tokens() + prompt_left();
  const int64_t later = observes() ? max_fresh_ + static_cast<int64_t>(prompt_->answer.size()) : 0;
  return std::max(tokens, later) + 1;
}

void Conversation::Truncate(int64_t tokens) {
  sequence_.Truncate(tokens);
  pages_held_ = static_cast<int64_t>(sequence_.block_table().size());
}

int64_t Conversation::pages_wanted() const {
  const int64_t pages = (tokens_wanted() + kBlockTokens - 1) / kBlockTokens;
  return std::max<int64_t>(0, pages - pages_held());
}

absl::StatusOr<std::unique_ptr<Conversation>> Generator::Admit(const Request& request) {
  KVLINK_RETURN_IF_ERROR(kernels::ValidateSampleParams(request.sampling));
  const int64_t vocab = model_->config().vocab;
  KVLINK_RETURN_IF_ERROR(CheckTokens("the prompt", request.prompt.before, vocab));
  KVLINK_RETURN_IF_ERROR(CheckTokens("the prompt", request.prompt.after, vocab));
  for (const RequestDocument& document : request.documents) {
    KVLINK_RETURN_IF_ERROR(CheckTokens("a document", document.tokens, vocab));
  }
  KVLINK_RETURN_IF_ERROR(CheckRules(request.rules, vocab));
  if (const int64_t top = request.top_logprobs.value_or(0); top < 0 || top > kernels::kMaxLikeliest) {
    return absl::InvalidArgumentError(absl::StrCat(top, " log-probabilities; at most ", kernels::kMaxLikeliest));
  }
  std::unique_ptr<Conversation> conversation(new Conversation(this, pages_.get(), request));
  link::PlanInput input;
  input.linker = request.linker;
  input.profile = &options_.profile;
  input.vocab = vocab;
  input.context = model_->config().context;
  input.answer_tokens = request.answer_tokens;
  input.prompt = request.prompt;
  input.allow_untrained_links = request.allow_untrained_links;
  for (const RequestDocument& document : conversation->documents_) {
    input.documents.push_back(document.tokens);
    input.text.push_back(document.text);
    conversation->stats_.documents_text += document.text ? 1 : 0;
  }
  KVLINK_ASSIGN_OR_RETURN(link::Stages stages, link::Stages::Create(std::move(input)));
  conversation->max_fresh_ = stages.max_fresh_tokens();
  conversation->stages_ = [stages = std::move(stages)](const link::Observed& observed) mutable {
    return stages.Next(observed);
  };
  Restart(*conversation, {});
  return conversation;
}

absl::StatusOr<std::unique_ptr<Conversation>> Generator::Start(const Request& request) {
  KVLINK_ASSIGN_OR_RETURN(std::unique_ptr<Conversation> conversation, Admit(request));
  return Compute(std::move(conversation), request.limits);
}

absl::StatusOr<std::unique_ptr<Conversation>> Generator::StartPlanned(const link::LinkPlan& plan,
                                                                      const Request& request) {
  if (plan.observe != link::Observe::kNothing || plan.layers != 0 || plan.kept != 0) {
    return absl::InvalidArgumentError("plan: a single stage goes through all layers and observes and keeps nothing");
  }
  KVLINK_RETURN_IF_ERROR(CheckPlan(plan, request, options_.wrapper.tokens()));
  std::unique_ptr<Conversation> conversation(new Conversation(this, pages_.get(), request));
  conversation->stages_ = [plan](const link::Observed&) { return plan; };
  Restart(*conversation, {});
  return Compute(std::move(conversation), request.limits);
}

absl::StatusOr<std::unique_ptr<Conversation>> Generator::Compute(std::unique_ptr<Conversation> conversation,
                                                                 const Limits& limits) {
  const Call call(limits);
  Work work{conversation.get(), options_.prefill_chunk};
  Work* const alone = &work;
  while (conversation->prompt_left() > 0) {
    PassOver({&alone, 1}, call, /*together=*/true);
    KVLINK_RETURN_IF_ERROR(work.status);
  }
  return conversation;
}

void Generator::Restart(Conversation& conversation, absl::Span<const int32_t> answer) {
  conversation.prompt_ = std::make_unique<Conversation::Prompt>();
  conversation.prompt_->next = conversation.stages_;
  conversation.prompt_->answer.assign(answer.begin(), answer.end());
  conversation.repeated_ += std::exchange(conversation.computed_, 0);
  conversation.recomputed_ = 0;
  const bool held = conversation.holds_documents();
  for (Conversation::Read& read : conversation.reads_) read.resident = nullptr;
  if (held) pool_.Trim();
  EnterStage(conversation);
}

void Generator::EnterStage(Conversation& conversation) {
  Conversation::Prompt& prompt = *conversation.prompt_;
  prompt.plan = prompt.next(prompt.observed);
  link::LinkPlan& plan = prompt.plan;
  plan.layers = std::min(plan.layers, model_->config().layers);
  if (plan.observe == link::Observe::kNothing) {
    for (size_t i = 0; i < prompt.answer.size(); ++i) {
      plan.fresh_tokens.push_back(prompt.answer[i]);
      plan.fresh_positions.push_back(plan.length + static_cast<int64_t>(i));
    }
  }
  conversation.packet_ = plan.packet;
  std::vector<Conversation::Read> before = std::exchange(conversation.reads_, {});
  for (const link::PlacedDocument& placed : plan.documents) {
    const RequestDocument& document = conversation.documents_[placed.document];
    const auto held =
        std::find_if(before.begin(), before.end(), [&](const auto& read) { return read.document == placed.document; });
    Conversation::Read read;
    if (held != before.end()) {
      read = std::move(*held);
    } else {
      read.document = placed.document;
      read.identity = IdentityOf(document.tokens, plan.packet, document.secret);
    }
    read.offset = placed.offset;
    read.hidden = placed.hidden;
    read.visible = CountHidden(placed.hidden) < EncodedTokens(document, plan.packet);
    conversation.reads_.push_back(std::move(read));
  }
  conversation.Truncate(plan.kept);
  conversation.length_ = plan.kept == 0 ? 0 : conversation.sequence_.positions().back() + 1;
  prompt.fed = plan.kept;
  prompt.observed.clear();
  for (const RequestDocument& document : conversation.documents_) {
    prompt.observed.emplace_back(EncodedTokens(document, plan.packet));
  }
  if (conversation.prompt_left() == 0) Advance(conversation, 0);
}

void Generator::CountTokens(Conversation& conversation) const {
  RequestStats& stats = conversation.stats_;
  for (const Conversation::Read& read : conversation.reads_) {
    const RequestDocument& document = conversation.documents_[read.document];
    const int64_t tokens = EncodedTokens(document, conversation.packet_) - CountHidden(read.hidden);
    const Conversation::Counted& counted = conversation.counted_[read.document];
    if (counted.place != &RequestStats::documents_encoded) {
      stats.read_tokens += tokens;
    } else if (counted.stored) {
      stats.stored_tokens += tokens;
    }
  }
}

void Generator::Advance(Conversation& conversation, int64_t tokens) {
  Conversation::Prompt& prompt = *conversation.prompt_;
  const link::LinkPlan& plan = prompt.plan;
  const int64_t all_layers = model_->config().layers, layers = plan.layers == 0 ? all_layers : plan.layers;
  const auto recomputed_before = [&](int64_t index) {
    return std::lower_bound(plan.recomputed.begin(), plan.recomputed.end(), index) - plan.recomputed.begin();
  };
  // Of the answer before Restart.
  const int64_t own = static_cast<int64_t>(plan.fresh_tokens.size() - prompt.answer.size());
  const int64_t again = std::clamp<int64_t>(prompt.fed + tokens - own, 0, tokens);
  conversation.computed_ += (tokens - again) * layers;
  conversation.repeated_ += again * layers;
  conversation.recomputed_ += (recomputed_before(prompt.fed + tokens) - recomputed_before(prompt.fed)) * layers;
  prompt.fed += tokens;
  RequestStats& stats = conversation.stats_;
  stats.fresh_tokens = (conversation.computed_ + all_layers - 1) / all_layers;
  stats.recomputed_tokens = (conversation.recomputed_ + all_layers - 1) / all_layers;
  stats.repeated_tokens = (conversation.repeated_ + all_layers - 1) / all_layers;
  if (conversation.prompt_left() > 0) return;
  stats.prompt_tokens = plan.length;
  if (plan.observe != link::Observe::kNothing) return EnterStage(conversation);
  conversation.prompt_ = nullptr;
  if (stats.time_to_first_token > absl::ZeroDuration()) return;  // a prompt that was begun again
  stats.time_to_first_token = SteadyNow() - conversation.began_;
  CountTokens(conversation);
  EndLoads(conversation);
  MutexLock lock(&mutex_);
  ++stats_.requests;
}

}  // namespace kvlink::infer
