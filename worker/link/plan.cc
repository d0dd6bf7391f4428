// Lays out positions: one running counter over fresh tokens and documents, so that there are no gaps by construction.
#include "worker/link/plan.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace kvlink::link {
namespace {

constexpr std::array<absl::string_view, 3> kBaseNames = {"concat", "links", "full"};  // by Linker::Base
constexpr int64_t kMaxHead = 1 << 20;

// Appends tokens at the next positions.
class Builder {
 public:
  void Fresh(absl::Span<const int32_t> tokens) {
    for (int32_t token : tokens) {
      plan_.fresh_tokens.push_back(token);
      plan_.fresh_positions.push_back(plan_.length++);
    }
  }
  // Reads a document but for its first `head` tokens, which are fresh.
  void FromEncoding(int64_t document, absl::Span<const int32_t> tokens, int64_t head) {
    PlacedDocument placed{document, plan_.length, {}};
    const auto size = static_cast<int64_t>(tokens.size());
    Fresh(tokens.first(static_cast<size_t>(std::min(head, size))));
    if (head >= size) return;
    if (head > 0) placed.hidden.resize(static_cast<size_t>((size + 63) / 64));
    for (int64_t token = 0; token < head; ++token) placed.hidden[token / 64] |= uint64_t{1} << (token % 64);
    plan_.documents.push_back(std::move(placed));
    plan_.length += size - head;
  }
  LinkPlan Take() { return std::move(plan_); }

 private:
  LinkPlan plan_;
};

absl::Status CheckLinker(const PlanInput& input) {
  if (input.linker.head < 0 || (input.linker.head > 0 && input.linker.base == Linker::kFull)) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan: the linker ", LinkerName(input.linker), " is none; full computes every token already"));
  }
  if (input.linker.base != Linker::kLinks) return absl::OkStatus();
  const LinkProfile& profile = *input.profile;
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

absl::StatusOr<Linker> ParseLinker(absl::string_view name) {
  const auto wrong = [name](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "linker '", name, "': ", why, "; use concat, links, full, head-K, or links+head-K, for example head-8"));
  };
  Linker linker;
  bool has_base = false;
  for (const absl::string_view term : absl::StrSplit(name, '+')) {
    const auto* const base = std::find(kBaseNames.begin(), kBaseNames.end(), term);
    if (base != kBaseNames.end()) {
      if (std::exchange(has_base, true)) return wrong("only one of concat, links and full");
      linker.base = static_cast<Linker::Base>(base - kBaseNames.begin());
    } else if (absl::string_view count = term; absl::ConsumePrefix(&count, "head-")) {
      if (linker.head > 0) return wrong("only one head");
      if (!absl::SimpleAtoi(count, &linker.head) || linker.head < 1 || linker.head > kMaxHead) {
        return wrong(absl::StrCat("a head has 1 to ", kMaxHead, " tokens"));
      }
    } else {
      return wrong(absl::StrCat("'", term, "' is unknown"));
    }
  }
  if (linker.base == Linker::kFull && linker.head > 0) return wrong("full computes every token already");
  return linker;
}

std::string LinkerName(Linker linker) {
  const absl::string_view base = kBaseNames[linker.base];
  if (linker.head == 0) return std::string(base);
  const std::string head = absl::StrCat("head-", linker.head);
  return linker.base == Linker::kConcat ? head : absl::StrCat(base, "+", head);
}

absl::StatusOr<LinkPlan> MakePlan(const PlanInput& input) {
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
  const LinkProfile& profile = *input.profile;
  const bool from_encodings = input.linker.base != Linker::kFull;
  // The markers are part of tuning a model to read encodings; an ordinary prefill has none.
  const bool markers = from_encodings && !input.documents.empty();
  const int64_t links = input.linker.base == Linker::kLinks ? profile.links_per_document : 0;
  const int64_t first_link = profile.first_link_id ? *profile.first_link_id : input.vocab;

  Builder builder;
  builder.Fresh(input.prompt.before);
  if (markers && profile.mem_start) builder.Fresh({*profile.mem_start});
  for (size_t i = 0; i < input.documents.size(); ++i) {
    if (from_encodings) {
      builder.FromEncoding(static_cast<int64_t>(i), input.documents[i], i == 0 ? 0 : input.linker.head);
    } else {
      builder.Fresh(input.documents[i]);
    }
    for (int64_t j = 0; j < links; ++j) {
      builder.Fresh({static_cast<int32_t>(first_link + static_cast<int64_t>(i) * links + j)});
    }
  }
  if (markers && profile.mem_end) builder.Fresh({*profile.mem_end});
  builder.Fresh(input.prompt.after);
  LinkPlan plan = builder.Take();
  KVLINK_RETURN_IF_ERROR(CheckRoom(input, plan.length));
  return plan;
}

}  // namespace kvlink::link
