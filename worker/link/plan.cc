// Lays out positions: one running counter over fresh tokens and documents, so that there are no gaps by construction.
#include "worker/link/plan.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::link {
namespace {

// Appends tokens at the next positions.
class Builder {
 public:
  void Fresh(absl::Span<const int32_t> tokens) {
    for (int32_t token : tokens) {
      plan_.fresh_tokens.push_back(token);
      plan_.fresh_positions.push_back(plan_.length++);
    }
  }
  void FromEncoding(int64_t document, int64_t tokens) {
    plan_.documents.push_back({document, plan_.length});
    plan_.length += tokens;
  }
  LinkPlan Take() { return std::move(plan_); }

 private:
  LinkPlan plan_;
};

absl::Status CheckLinker(const PlanInput& input) {
  if (input.linker != Linker::kLinks) return absl::OkStatus();
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
                                                   profile.slots,
                                                   " slots; ask with fewer documents or the linker concat"));
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
  for (Linker linker : {Linker::kConcat, Linker::kLinks, Linker::kFull}) {
    if (name == LinkerName(linker)) return linker;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown linker '", name, "'; use concat, links or full"));
}

absl::string_view LinkerName(Linker linker) {
  switch (linker) {
    case Linker::kConcat:
      return "concat";
    case Linker::kLinks:
      return "links";
    case Linker::kFull:
      return "full";
  }
  return "unknown";
}

absl::StatusOr<LinkPlan> MakePlan(const PlanInput& input) {
  if (input.profile == nullptr) return absl::InvalidArgumentError("plan: no link profile");
  if (input.answer_tokens < 1)
    return absl::InvalidArgumentError("plan: at least one token must be left for the answer");
  if (input.prompt.after.empty()) {
    return absl::InvalidArgumentError("plan: nothing stands after the documents, so there is nothing to answer");
  }
  KVLINK_RETURN_IF_ERROR(CheckLinker(input));
  for (size_t i = 0; i < input.documents.size(); ++i) {
    if (input.documents[i].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("document ", i + 1, " of ", input.documents.size(), " is empty"));
    }
  }
  const LinkProfile& profile = *input.profile;
  const bool from_encodings = input.linker != Linker::kFull;
  // The markers are part of tuning a model to read encodings; an ordinary prefill has none.
  const bool markers = from_encodings && !input.documents.empty();
  const int64_t links = input.linker == Linker::kLinks ? profile.links_per_document : 0;
  const int64_t first_link = profile.first_link_id ? *profile.first_link_id : input.vocab;

  Builder builder;
  builder.Fresh(input.prompt.before);
  if (markers && profile.mem_start) builder.Fresh({*profile.mem_start});
  for (size_t i = 0; i < input.documents.size(); ++i) {
    if (from_encodings) {
      builder.FromEncoding(static_cast<int64_t>(i), static_cast<int64_t>(input.documents[i].size()));
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
