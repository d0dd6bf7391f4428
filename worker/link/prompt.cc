// The chat around the documents, and their own tokens. Only the template knows where a turn begins, so it is rendered
// with marks in place of texts, and the text between marks is compared.
#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "worker/link/plan.h"

namespace kvlink::link {
namespace {

using model::ChatMessage;
using model::RenderedSpan;
using model::TextSpan;

constexpr int kDocuments = 0;  // the mark at the documents' place

// The chat with the mark in its first user turn; without one, no mark.
std::vector<ChatMessage> Messages(absl::Span<const Turn> turns) {
  std::vector<ChatMessage> messages;
  bool marked = false;
  for (const Turn& turn : turns) {
    ChatMessage message = {turn.role, {{turn.text}}};
    if (!marked && turn.role == "user") {
      message.content.insert(message.content.begin(), {"", kDocuments});
      marked = true;
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

// Appends the rendered text from mark `from` (-1: the beginning) to mark `to` (-1: the end). False if a mark is
// missing.
bool Between(absl::Span<const RenderedSpan> spans, int from, int to, std::string* text) {
  bool inside = from < 0;
  for (const RenderedSpan& span : spans) {
    if (inside && to >= 0 && span.mark == to) return true;
    if (inside) *text += span.text;
    if (span.mark == from) inside = true;
  }
  return inside && to < 0;
}

// The template's text that opens a user turn. Between an answer and the next question the template writes the end of
// the answer's turn, which a chat that ends there shows alone, followed by this opening. Empty if a template cannot be
// probed this way.
std::string UserTurnOpening(const model::ChatTemplate& chat, model::ChatOptions options) {
  enum { kQuestion, kAnswer, kNext };
  options.add_generation_prompt = false;
  options.eos_token = "";  // some templates put it at the very end
  std::vector<ChatMessage> messages = {{"user", {{"", kQuestion}}}, {"assistant", {{"", kAnswer}}}};
  const auto two = chat.Render(messages, options);
  messages.push_back({"user", {{"", kNext}}});
  const auto three = chat.Render(messages, options);
  std::string end, between;
  if (!two.ok() || !three.ok() || !Between(*two, kAnswer, -1, &end) || !Between(*three, kAnswer, kNext, &between)) {
    return "";
  }
  absl::string_view opening = between;
  return absl::ConsumePrefix(&opening, end) ? std::string(opening) : "";
}

// Bytes of the rendering up to the end of the system turn, including the default one that some families write when no
// system text is given. 0 without a system turn: only BOS precedes the user turn, or the template puts the system text
// into the user turn.
int64_t SystemTurnBytes(const model::ChatTemplate& chat, const model::ChatOptions& options,
                        absl::Span<const RenderedSpan> spans) {
  std::string before;
  const std::string opening = UserTurnOpening(chat, options);
  if (opening.empty() || !Between(spans, -1, kDocuments, &before)) return 0;
  absl::string_view turn = before;
  if (!absl::ConsumeSuffix(&turn, opening)) return 0;
  absl::string_view text = absl::StripAsciiWhitespace(turn);
  if (!options.bos_token.empty()) absl::ConsumePrefix(&text, options.bos_token);
  if (absl::StripAsciiWhitespace(text).empty()) return 0;
  // Only the template opens a turn: a system text that happens to end like an opening does not.
  int64_t bytes = 0;
  for (const RenderedSpan& span : spans) {
    if (span.mark == kDocuments) break;
    bytes += static_cast<int64_t>(span.text.size());
    if (!span.trusted && bytes > static_cast<int64_t>(turn.size())) return 0;
  }
  return static_cast<int64_t>(turn.size());
}

// The same where other turns than system ones come before the first user turn: the leading system turns, rendered
// alone, if the whole rendering begins like that; 0 otherwise.
int64_t LeadingSystemBytes(const model::ChatTemplate& chat, model::ChatOptions options, absl::Span<const Turn> leading,
                           absl::Span<const RenderedSpan> spans) {
  if (leading.empty()) return 0;
  options.add_generation_prompt = false;
  const auto alone = chat.Render(Messages(leading), options);
  std::string whole, turns;
  if (!alone.ok() || !Between(*alone, -1, -1, &turns) || !Between(spans, -1, -1, &whole)) return 0;
  return absl::StartsWith(whole, turns) ? static_cast<int64_t>(turns.size()) : 0;
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

absl::StatusOr<ModelChat> OpenChat(absl::string_view source, const model::ModelConfig& config,
                                   const model::Tokenizer& tokenizer) {
  ModelChat chat;
  KVLINK_ASSIGN_OR_RETURN(chat.chat_template,
                          model::ChatTemplate::Parse(source.empty() ? model::ChatMlTemplate() : source));
  if (config.bos >= 0) chat.options.bos_token = tokenizer.TokenBytes(config.bos);
  if (!config.end_of_sequence.empty()) chat.options.eos_token = tokenizer.TokenBytes(config.end_of_sequence[0]);
  return chat;
}

absl::StatusOr<PromptTokens> MakePrompt(const model::Tokenizer& tokenizer, const model::ChatTemplate& chat,
                                        const model::ChatOptions& options, const LinkProfile& profile,
                                        absl::Span<const Turn> turns) {
  if (std::none_of(turns.begin(), turns.end(), [](const Turn& turn) { return turn.role == "user"; })) {
    return absl::InvalidArgumentError("the chat has no message of a user");
  }
  KVLINK_ASSIGN_OR_RETURN(const std::vector<RenderedSpan> spans, chat.Render(Messages(turns), options));
  int64_t system_bytes = 0;
  if (profile.place == LinkProfile::Place::kAfterSystem) {
    const auto other = std::find_if(turns.begin(), turns.end(), [](const Turn& turn) { return turn.role != "system"; });
    system_bytes = other->role == "user" ? SystemTurnBytes(chat, options, spans)
                                         : LeadingSystemBytes(chat, options, turns.first(other - turns.begin()), spans);
  }
  if (system_bytes == 0 && !HoldsMark(spans)) {
    return absl::FailedPreconditionError(
        "the chat template drops the user's message, so it has no place for documents");
  }
  const Sides sides = system_bytes > 0 ? SplitAtByte(spans, system_bytes) : SplitAtMark(spans);
  PromptTokens prompt;
  KVLINK_ASSIGN_OR_RETURN(prompt.before, model::EncodeSpans(tokenizer, sides.before));
  KVLINK_ASSIGN_OR_RETURN(prompt.after, model::EncodeSpans(tokenizer, sides.after));
  // The template decides whether there is a BOS; if template and tokenizer both add one, drop the duplicate.
  const std::optional<int32_t> bos = tokenizer.bos();
  if (bos && prompt.before.size() >= 2 && prompt.before[0] == *bos && prompt.before[1] == *bos) {
    prompt.before.erase(prompt.before.begin());
  }
  return prompt;
}

absl::StatusOr<PromptTokens> MakePrompt(const model::Tokenizer& tokenizer, const model::ChatTemplate& chat,
                                        const model::ChatOptions& options, const LinkProfile& profile,
                                        absl::string_view system, absl::string_view question) {
  std::vector<Turn> turns;
  if (!system.empty()) turns.push_back({"system", std::string(system)});
  turns.push_back({"user", std::string(question)});
  return MakePrompt(tokenizer, chat, options, profile, turns);
}

absl::StatusOr<std::vector<std::vector<int32_t>>> DocumentTokens(const model::Tokenizer& tokenizer,
                                                                 const LinkProfile& profile, absl::string_view title,
                                                                 absl::string_view text, int64_t most) {
  KVLINK_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                          tokenizer.Encode(DocumentText(profile, title, text), /*parse_special=*/false));
  const size_t step = most > 0 ? static_cast<size_t>(most) : tokens.size();
  std::vector<std::vector<int32_t>> pieces;
  for (size_t begin = 0; begin < tokens.size(); begin += step) {
    const absl::Span<const int32_t> piece = absl::MakeConstSpan(tokens).subspan(begin, step);
    pieces.emplace_back(piece.begin(), piece.end());
  }
  return pieces;
}

}  // namespace kvlink::link
