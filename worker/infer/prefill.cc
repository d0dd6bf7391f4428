// The prefill of a request, stage by stage as its linker says. Between stages a conversation keeps its encodings, and
// the fresh tokens that the next stage does not change; everything else is computed from the tokens' embeddings on, so
// that no activations outlive a pass and any pass can be repeated.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {
namespace {

bool HidesAll(absl::Span<const uint64_t> hidden, int64_t tokens) {
  int64_t count = 0;
  for (uint64_t word : hidden) count += __builtin_popcountll(word);
  return count == tokens;
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

}  // namespace

absl::StatusOr<std::unique_ptr<Conversation>> Generator::Start(const Request& request) {
  link::PlanInput input;
  input.linker = request.linker;
  input.profile = &options_.profile;
  input.vocab = model_->config().vocab;
  input.context = model_->config().context;
  input.answer_tokens = request.answer_tokens;
  input.prompt = request.prompt;
  input.allow_untrained_links = request.allow_untrained_links;
  for (const RequestDocument& document : request.documents) input.documents.push_back(document.tokens);
  KVLINK_ASSIGN_OR_RETURN(link::Stages stages, link::Stages::Create(std::move(input)));
  return StartStages([&](const link::Observed& observed) { return stages.Next(observed); }, request);
}

absl::StatusOr<std::unique_ptr<Conversation>> Generator::StartPlanned(const link::LinkPlan& plan,
                                                                      const Request& request) {
  if (plan.observe != link::Observe::kNothing || plan.layers != 0 || plan.kept != 0) {
    return absl::InvalidArgumentError("plan: a single stage goes through all layers and observes and keeps nothing");
  }
  KVLINK_RETURN_IF_ERROR(CheckPlan(plan, request, options_.wrapper.tokens()));
  return StartStages([&](const link::Observed&) { return plan; }, request);
}

absl::StatusOr<std::unique_ptr<Conversation>> Generator::StartStages(const NextStage& next, const Request& request) {
  const absl::Time began = SteadyNow();
  const Call call(request.limits);
  std::unique_ptr<Conversation> conversation(new Conversation(this, pages_.get()));
  conversation->sampling_ = request.sampling;
  conversation->keep_logits_ = request.keep_logits;
  conversation->documents_ = request.documents;
  RequestStats& stats = conversation->stats_;
  const int64_t all_layers = model_->config().layers;
  int64_t computed = 0, recomputed = 0;  // layers of tokens; of these, of documents
  link::Observed observed;
  bool last = false;
  while (!last) {
    link::LinkPlan plan = next(observed);
    plan.layers = std::min(plan.layers, all_layers);
    last = plan.observe == link::Observe::kNothing;
    EnterStage(*conversation, plan);
    KVLINK_RETURN_IF_ERROR(ReadDocuments(*conversation, {}, /*holds=*/!observed.empty(), call));
    observed.clear();
    for (const RequestDocument& document : request.documents) {
      observed.emplace_back(EncodedTokens(document, plan.packet));
    }
    KVLINK_RETURN_IF_ERROR(Prefill(*conversation, plan, call, &observed));
    const int64_t layers = plan.layers == 0 ? all_layers : plan.layers;
    computed += (static_cast<int64_t>(plan.fresh_tokens.size()) - plan.kept) * layers;
    recomputed +=
        (plan.recomputed.end() - std::lower_bound(plan.recomputed.begin(), plan.recomputed.end(), plan.kept)) * layers;
    stats.prompt_tokens = plan.length;
  }
  stats.fresh_tokens = (computed + all_layers - 1) / all_layers;
  stats.recomputed_tokens = (recomputed + all_layers - 1) / all_layers;
  stats.time_to_first_token = SteadyNow() - began;
  MutexLock lock(&mutex_);
  ++stats_.requests;
  return conversation;
}

void Generator::EnterStage(Conversation& conversation, const link::LinkPlan& plan) {
  std::vector<Conversation::Read> before = std::move(conversation.reads_);
  conversation.reads_.clear();
  conversation.packet_ = plan.packet;
  for (const link::PlacedDocument& placed : plan.documents) {
    const RequestDocument& document = conversation.documents_[placed.document];
    const auto held =
        std::find_if(before.begin(), before.end(), [&](const auto& read) { return read.document == placed.document; });
    Conversation::Read read;
    if (held != before.end()) {
      read = std::move(*held);
    } else {
      read.document = placed.document;
      read.identity = IdentityOf(document.tokens, plan.packet);
    }
    read.offset = placed.offset;
    read.hidden = placed.hidden;
    read.visible = !HidesAll(placed.hidden, EncodedTokens(document, plan.packet));
    conversation.reads_.push_back(std::move(read));
  }
  conversation.sequence_.Truncate(plan.kept);
}

absl::Status Generator::Prefill(Conversation& conversation, const link::LinkPlan& plan, const Call& call,
                                link::Observed* observed) {
  const int64_t fresh = static_cast<int64_t>(plan.fresh_tokens.size());
  for (int64_t begin = plan.kept; begin < fresh; begin += options_.prefill_chunk) {
    const int64_t count = std::min(options_.prefill_chunk, fresh - begin);
    Rows rows;
    rows.conversation = &conversation;
    rows.tokens = absl::MakeConstSpan(plan.fresh_tokens).subspan(begin, count);
    rows.positions = absl::MakeConstSpan(plan.fresh_positions).subspan(begin, count);
    rows.layers = plan.layers;
    rows.first_observer = std::clamp<int64_t>(plan.question - begin, 0, count);
    rows.observed = observed;
    const bool observers = plan.observe != link::Observe::kKeyMass || rows.first_observer < count;
    rows.observe = observers ? plan.observe : link::Observe::kNothing;
    rows.sample = plan.observe == link::Observe::kNothing && begin + count == fresh;
    KVLINK_ASSIGN_OR_RETURN(rows.slots, conversation.sequence_.Append(rows.positions));
    conversation.length_ = rows.positions.back() + 1;
    KVLINK_RETURN_IF_ERROR(Run(absl::MakeSpan(&rows, 1), call));
  }
  return absl::OkStatus();
}

}  // namespace kvlink::infer
