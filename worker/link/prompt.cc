// MakePrompt: the chat around the documents.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/link/plan.h"

namespace kvlink::link {
namespace {

using model::ChatMessage;
using model::RenderedSpan;
using model::TextSpan;

constexpr int kDocuments = 0;  // the mark at the documents' place

std::vector<ChatMessage> Messages(absl::string_view system, absl::string_view question) {
  std::vector<ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", {{std::string(system)}}});
  messages.push_back({"user", {{"", kDocuments}, {std::string(question)}}});
  return messages;
}

std::string Joined(absl::Span<const RenderedSpan> spans) {
  std::string text;
  for (const RenderedSpan& span : spans) text += span.text;
  return text;
}

// Bytes of the rendering up to the end of the system turn, or 0 where the template has no such turn of its own
// (families that put the system text into the user's turn).
int64_t SystemTurnBytes(const model::ChatTemplate& chat, model::ChatOptions options, absl::string_view system,
                        absl::string_view rendered) {
  options.add_generation_prompt = false;
  std::vector<ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", {{std::string(system)}}});
  const auto alone = chat.Render(messages, options);
  if (!alone.ok()) return 0;
  const std::string text = Joined(*alone);
  return !text.empty() && rendered.substr(0, text.size()) == text ? static_cast<int64_t>(text.size()) : 0;
}

struct Sides {
  std::vector<TextSpan> before;
  std::vector<TextSpan> after;
};

Sides SplitAtMark(absl::Span<const RenderedSpan> spans) {
  Sides sides;
  bool passed = false;
  for (const RenderedSpan& span : spans) {
    if (span.mark == kDocuments) {
      passed = true;
    } else if (!span.text.empty()) {
      (passed ? sides.after : sides.before).push_back({span.text, span.trusted});
    }
  }
  return sides;
}

Sides SplitAtByte(absl::Span<const RenderedSpan> spans, int64_t bytes) {
  Sides sides;
  for (const RenderedSpan& span : spans) {
    const int64_t here = std::min<int64_t>(bytes, static_cast<int64_t>(span.text.size()));
    if (here > 0) sides.before.push_back({span.text.substr(0, here), span.trusted});
    if (here < static_cast<int64_t>(span.text.size())) sides.after.push_back({span.text.substr(here), span.trusted});
    bytes -= here;
  }
  return sides;
}

bool HoldsMark(absl::Span<const RenderedSpan> spans) {
  for (const RenderedSpan& span : spans) {
    if (span.mark == kDocuments) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<PromptTokens> MakePrompt(const model::Tokenizer& tokenizer, const model::ChatTemplate& chat,
                                        const model::ChatOptions& options, const LinkProfile& profile,
                                        absl::string_view system, absl::string_view question) {
  KVLINK_ASSIGN_OR_RETURN(const std::vector<RenderedSpan> spans, chat.Render(Messages(system, question), options));
  int64_t system_bytes = 0;
  if (profile.place == LinkProfile::Place::kAfterSystem) {
    system_bytes = SystemTurnBytes(chat, options, system, Joined(spans));
  }
  if (system_bytes == 0 && !HoldsMark(spans)) {
    return absl::FailedPreconditionError(
        "the chat template drops the user's message, so documents have no place in it");
  }
  const Sides sides = system_bytes > 0 ? SplitAtByte(spans, system_bytes) : SplitAtMark(spans);
  PromptTokens prompt;
  KVLINK_ASSIGN_OR_RETURN(prompt.before, model::EncodeSpans(tokenizer, sides.before));
  KVLINK_ASSIGN_OR_RETURN(prompt.after, model::EncodeSpans(tokenizer, sides.after));
  // Whether there is a BOS is the template's to say; a template and a tokenizer that both add one would make two.
  const std::optional<int32_t> bos = tokenizer.bos();
  if (bos && prompt.before.size() >= 2 && prompt.before[0] == *bos && prompt.before[1] == *bos) {
    prompt.before.erase(prompt.before.begin());
  }
  return prompt;
}

}  // namespace kvlink::link
