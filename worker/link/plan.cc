// Lays out positions: one running counter over fresh tokens and documents, so that there are no gaps by construction.
// All stages share one layout and differ in which tokens of the documents are fresh.
#include "worker/link/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::link {
namespace {

// The keys and values of layer 0 depend on no other token; those of layer 1 are the first to deviate.
constexpr int64_t kBlendLayers = 2;

// Tokens of the encoding around a document's own.
struct Around {
  int64_t header = 0, trailer = 0;
  int64_t tokens() const { return header + trailer; }
};
bool IsText(const PlanInput& input, size_t document) { return document < input.text.size() && input.text[document]; }
Around AroundDocument(const PlanInput& input, size_t document) {
  if (!input.linker.packet || IsText(input, document)) return {};
  return {input.profile->wrapper->header, input.profile->wrapper->trailer};
}

// A set of an encoding's tokens, as PlacedDocument::hidden.
using TokenSet = std::vector<uint64_t>;
bool Holds(const TokenSet& set, size_t token) { return ((set[token / 64] >> (token % 64)) & 1) != 0; }
void Add(size_t token, TokenSet* set) { (*set)[token / 64] |= uint64_t{1} << (token % 64); }

// For each document the first `head` of its own tokens, except those of the first document if it is `spared`; all of
// those that are text.
std::vector<TokenSet> Heads(const PlanInput& input, int64_t head, bool spared) {
  std::vector<TokenSet> heads;
  for (size_t i = 0; i < input.documents.size(); ++i) {
    const Around around = AroundDocument(input, i);
    const size_t tokens = input.documents[i].size();
    TokenSet& set = heads.emplace_back((tokens + around.tokens() + 63) / 64);
    if (i == 0 && spared && !IsText(input, i)) continue;
    const size_t end = IsText(input, i) ? tokens : std::min<size_t>(tokens, static_cast<size_t>(head));
    for (size_t token = 0; token < end; ++token) Add(around.header + token, &set);
  }
  return heads;
}
std::vector<TokenSet> AllTokens(const PlanInput& input) {
  return Heads(input, std::numeric_limits<int64_t>::max(), /*spared=*/false);
}
// What the linker computes again whatever is observed.
std::vector<TokenSet> GivenTokens(const PlanInput& input) {
  if (input.linker.base == Linker::kFull) return AllTokens(input);
  return Heads(input, input.linker.head, /*spared=*/true);
}

// Appends tokens at the next positions.
class Builder {
 public:
  void Fresh(absl::Span<const int32_t> tokens) {
    for (int32_t token : tokens) {
      plan_.fresh_tokens.push_back(token);
      plan_.fresh_positions.push_back(plan_.length++);
    }
  }
  // Reads a document but for its tokens in `fresh`. One that is all fresh is left out unless it is `compared`.
  void Document(int64_t document, absl::Span<const int32_t> tokens, const Around& around, TokenSet fresh,
                bool compared) {
    const int64_t offset = plan_.length;
    const size_t before = plan_.recomputed.size();
    plan_.length += around.header;
    for (size_t token = 0; token < tokens.size(); ++token) {
      if (Holds(fresh, around.header + token)) {
        plan_.recomputed.push_back(static_cast<int64_t>(plan_.fresh_tokens.size()));
        Fresh(tokens.subspan(token, 1));
      } else {
        ++plan_.length;
      }
    }
    plan_.length += around.trailer;
    const size_t count = plan_.recomputed.size() - before;
    if (count == 0) fresh.clear();
    if (count < tokens.size() || around.tokens() > 0 || compared)
      plan_.documents.push_back({document, offset, std::move(fresh)});
  }
  LinkPlan& plan() { return plan_; }

 private:
  LinkPlan plan_;
};

// The whole prompt, in which these tokens of the documents are fresh.
LinkPlan Layout(const PlanInput& input, std::vector<TokenSet> fresh, bool compared = false) {
  const LinkProfile& profile = *input.profile;
  // The markers are part of tuning a model to read encodings; an ordinary prefill has none.
  const bool markers = input.linker.base != Linker::kFull && !input.documents.empty();
  const int64_t links = input.linker.base == Linker::kLinks ? profile.links_per_document : 0;
  const int64_t first_link = profile.first_link_id ? *profile.first_link_id : input.vocab;

  Builder builder;
  builder.Fresh(input.prompt.before);
  if (markers && profile.mem_start) builder.Fresh({*profile.mem_start});
  for (size_t i = 0; i < input.documents.size(); ++i) {
    builder.Document(static_cast<int64_t>(i), input.documents[i], AroundDocument(input, i), std::move(fresh[i]),
                     compared && !IsText(input, i));
    for (int64_t j = 0; j < links; ++j) {
      builder.Fresh({static_cast<int32_t>(first_link + static_cast<int64_t>(i) * links + j)});
    }
  }
  if (markers && profile.mem_end) builder.Fresh({*profile.mem_end});
  builder.plan().packet = input.linker.packet;
  builder.plan().question = static_cast<int64_t>(builder.plan().fresh_tokens.size());
  builder.Fresh(input.prompt.after);
  return std::move(builder.plan());
}

// The own tokens of the documents that are read from encodings.
int64_t ReadTokens(const PlanInput& input) {
  int64_t tokens = 0;
  for (size_t i = 0; i < input.documents.size(); ++i) {
    tokens += IsText(input, i) ? 0 : static_cast<int64_t>(input.documents[i].size());
  }
  return tokens;
}
// How many of them the linker chooses, if there are as many. 0: there is no choice.
int64_t Chosen(const PlanInput& input) { return (ReadTokens(input) * input.linker.percent + 99) / 100; }
bool Chooses(const PlanInput& input) { return input.linker.choice != Linker::kNone && ReadTokens(input) > 0; }

// Adds the linker's percentage of the documents' own tokens: those with the largest observed numbers, of equal ones the
// earlier. A number that is none (a difference from nothing) counts as the largest.
void AddChosen(const PlanInput& input, const Observed& observed, std::vector<TokenSet>* fresh) {
  struct Candidate {
    float number;
    size_t document, token;
  };
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < input.documents.size(); ++i) {
    const int64_t header = AroundDocument(input, i).header;
    for (size_t token = header; token < header + input.documents[i].size(); ++token) {
      if (Holds((*fresh)[i], token)) continue;
      const float number = observed[i][token];
      candidates.push_back({std::isnan(number) ? std::numeric_limits<float>::infinity() : number, i, token});
    }
  }
  const auto end = candidates.begin() + std::min<ptrdiff_t>(Chosen(input), static_cast<ptrdiff_t>(candidates.size()));
  std::partial_sort(candidates.begin(), end, candidates.end(), [](const Candidate& a, const Candidate& b) {
    if (a.number != b.number) return a.number > b.number;
    return std::pair(a.document, a.token) < std::pair(b.document, b.token);
  });
  for (auto it = candidates.begin(); it != end; ++it) Add(it->token, &(*fresh)[it->document]);
}

absl::Status CheckLinker(const PlanInput& input) {
  const Linker& linker = input.linker;
  const bool chooses = linker.choice != Linker::kNone;
  if (linker.head < 0 || linker.percent < 0 || linker.percent > 100 || (!chooses && linker.percent > 0)) {
    return absl::InvalidArgumentError(absl::StrCat("plan: the linker ", LinkerName(linker), " with a head of ",
                                                   linker.head, " tokens and ", linker.percent, " percent is none"));
  }
  if (linker.base == Linker::kFull && (linker.head > 0 || chooses || linker.packet)) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan: the linker ", LinkerName(linker), " is none; full computes every token already"));
  }
  const LinkProfile& profile = *input.profile;
  if (linker.packet && !profile.wrapper) {
    return absl::FailedPreconditionError(absl::StrCat(
        "link profile '", profile.name,
        "' has no wrapper; use the linker concat, or a profile with a wrapper that was trained for the model"));
  }
  if (linker.base != Linker::kLinks) return absl::OkStatus();
  if (profile.links_per_document == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("link profile '", profile.name,
                     "' has no link tokens; use the linker concat, or the profile of a "
                     "model trained with links"));
  }
  if (!profile.trained && !input.allow_untrained_links) {
    return absl::FailedPreconditionError(
        absl::StrCat("the link tokens of profile '", profile.name, "' were never trained; use the linker concat"));
  }
  const int64_t documents = static_cast<int64_t>(input.documents.size());
  if (documents > profile.slots) {
    return absl::InvalidArgumentError(absl::StrCat(documents, " documents, but link profile '", profile.name, "' has ",
                                                   profile.slots, " slots; use fewer documents or the linker concat"));
  }
  return absl::OkStatus();
}

absl::Status CheckRoom(const PlanInput& input, int64_t length) {
  const int64_t needed = length + input.answer_tokens;
  if (needed <= input.context) return absl::OkStatus();
  int64_t document_tokens = 0;
  for (absl::Span<const int32_t> document : input.documents) document_tokens += static_cast<int64_t>(document.size());
  return absl::InvalidArgumentError(absl::StrCat("no room for question and answer: ", needed - input.context,
                                                 " tokens too many (", document_tokens, " of documents, ",
                                                 length - document_tokens, " around them, ", input.answer_tokens,
                                                 " for the answer, the model's context is ", input.context,
                                                 "); use fewer or shorter documents, or a shorter question"));
}

}  // namespace

Stages::Stages(PlanInput input, State state) : input_(std::move(input)), state_(state) {}

absl::StatusOr<Stages> Stages::Create(PlanInput input) {
  if (input.profile == nullptr) return absl::InvalidArgumentError("plan: no link profile");
  if (input.answer_tokens < 1)
    return absl::InvalidArgumentError("plan: at least one token must be left for the answer");
  if (input.prompt.after.empty()) {
    return absl::InvalidArgumentError("plan: no tokens follow the documents, so there is nothing to answer");
  }
  KVLINK_RETURN_IF_ERROR(CheckLinker(input));
  for (size_t i = 0; i < input.documents.size(); ++i) {
    if (input.documents[i].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("document ", i + 1, " of ", input.documents.size(), " is empty"));
    }
  }
  KVLINK_RETURN_IF_ERROR(CheckRoom(input, Layout(input, GivenTokens(input)).length));
  const State state = Chooses(input) ? State::kObserving : State::kAnswering;
  return Stages(std::move(input), state);
}

int64_t Stages::max_fresh_tokens() const {
  const int64_t given = static_cast<int64_t>(Layout(input_, GivenTokens(input_)).fresh_tokens.size());
  if (!Chooses(input_)) return given;
  const int64_t all = static_cast<int64_t>(Layout(input_, AllTokens(input_)).fresh_tokens.size());
  return input_.linker.choice == Linker::kBlend ? all : std::min(all, given + Chosen(input_));
}

LinkPlan Stages::Next(const Observed& observed) {
  if (std::exchange(state_, State::kAnswering) == State::kAnswering) return Answer(observed);
  return input_.linker.choice == Linker::kBlend ? Deviation() : KeyMass();
}

// All tokens up to the end of the last document that is read, through the first layers. What follows changes none of
// them.
LinkPlan Stages::Deviation() const {
  LinkPlan plan = Layout(input_, AllTokens(input_), /*compared=*/true);
  plan.observe = Observe::kDeviation;
  plan.layers = kBlendLayers;
  const PlacedDocument& last = plan.documents.back();
  plan.length = last.offset + static_cast<int64_t>(input_.documents[last.document].size()) +
                AroundDocument(input_, last.document).tokens();
  const auto end = std::lower_bound(plan.fresh_positions.begin(), plan.fresh_positions.end(), plan.length);
  plan.fresh_positions.erase(end, plan.fresh_positions.end());
  plan.fresh_tokens.resize(plan.fresh_positions.size());
  plan.question = static_cast<int64_t>(plan.fresh_tokens.size());
  return plan;
}

LinkPlan Stages::KeyMass() const {
  LinkPlan plan = Layout(input_, GivenTokens(input_));
  plan.observe = Observe::kKeyMass;
  return plan;
}

LinkPlan Stages::Answer(const Observed& observed) const {
  std::vector<TokenSet> fresh = GivenTokens(input_);
  if (Chooses(input_)) AddChosen(input_, observed, &fresh);
  LinkPlan plan = Layout(input_, std::move(fresh));
  if (!Chooses(input_) || input_.linker.choice != Linker::kProphet) return plan;
  // Up to the first chosen token everything is as the question saw it. The question itself always changes.
  const LinkPlan before = KeyMass();
  const auto [mine, theirs] = std::mismatch(plan.fresh_positions.begin(), plan.fresh_positions.end(),
                                            before.fresh_positions.begin(), before.fresh_positions.end());
  plan.kept = std::min<int64_t>(mine - plan.fresh_positions.begin(), plan.question);
  return plan;
}

}  // namespace kvlink::link
