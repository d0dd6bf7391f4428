// Converts messages to the interpreter's values, with the trust of each character, and the result back to spans.
#include "worker/text/template/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/text/template/jinja_ast.h"
#include "worker/text/template/jinja_evaluator.h"

namespace kvlink::model {
namespace {

using jinja::Text;
using jinja::Value;

constexpr size_t kMaxTemplateBytes = 256 << 10;

// Templates build control tokens from the role ('<|' + message['role'] + '|>'), so the standard names are trusted.
bool KnownRole(absl::string_view role) {
  for (const absl::string_view known : {"system", "user", "assistant", "tool"}) {
    if (role == known) return true;
  }
  return false;
}

absl::StatusOr<Value> MessageValue(const ChatMessage& message) {
  absl::StatusOr<Text> role = jinja::DecodeText(message.role, KnownRole(message.role));
  if (!role.ok()) return Annotate(role.status(), "the role");
  Text content;
  for (const ChatMessage::Piece& piece : message.content) {
    if (piece.mark > jinja::kMaxMark)
      return absl::InvalidArgumentError(absl::StrCat("mark ", piece.mark, " is too large"));
    if (piece.mark >= 0) {
      content += jinja::kMark | static_cast<char32_t>(piece.mark);
      continue;
    }
    absl::StatusOr<Text> text = jinja::DecodeText(piece.text, /*trusted=*/false);
    if (!text.ok()) return Annotate(text.status(), "the content");
    content += *text;
  }
  return Value::MakeDict({{Value::String("role"), Value::String(*std::move(role))},
                          {Value::String("content"), Value::String(std::move(content))}});
}

class JinjaChatTemplate : public ChatTemplate {
 public:
  explicit JinjaChatTemplate(jinja::Body body) : body_(std::move(body)) {}

  absl::StatusOr<std::vector<RenderedSpan>> Render(const std::vector<ChatMessage>& messages,
                                                   const ChatOptions& options) const override {
    std::vector<Value> values;
    for (size_t i = 0; i < messages.size(); ++i) {
      absl::StatusOr<Value> value = MessageValue(messages[i]);
      if (!value.ok()) return Annotate(value.status(), absl::StrCat("message ", i));
      values.push_back(*std::move(value));
    }
    KVLINK_ASSIGN_OR_RETURN(Text bos, jinja::DecodeText(options.bos_token, /*trusted=*/true));
    KVLINK_ASSIGN_OR_RETURN(Text eos, jinja::DecodeText(options.eos_token, /*trusted=*/true));
    const jinja::Variables variables = {
        {"messages", Value::MakeList(std::move(values))},
        {"tools", Value::MakeNone()},
        {"documents", Value::MakeNone()},
        {"add_generation_prompt", Value::Bool(options.add_generation_prompt)},
        {"bos_token", Value::String(std::move(bos))},
        {"eos_token", Value::String(std::move(eos))},
        {"enable_thinking", Value::Bool(options.enable_thinking)},
    };
    absl::StatusOr<Text> text = jinja::Evaluate(body_, variables, options.date);
    if (!text.ok()) {
      // raise_exception's message is returned without a prefix.
      return absl::IsFailedPrecondition(text.status()) ? text.status() : Annotate(text.status(), "chat template");
    }
    std::vector<RenderedSpan> spans = jinja::TextSpans(*text);
    size_t bytes = 0;
    for (const RenderedSpan& span : spans) bytes += span.text.size();
    if (bytes > static_cast<size_t>(jinja::kMaxOutputBytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("chat template: more than ", jinja::kMaxOutputBytes, " bytes of output"));
    }
    return spans;
  }

 private:
  const jinja::Body body_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(absl::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("chat template: ", source.size(), " bytes, more than the ", kMaxTemplateBytes, " allowed"));
  }
  absl::StatusOr<jinja::Body> body = jinja::ParseTemplate(source);
  if (!body.ok()) return Annotate(body.status(), "chat template");
  return std::make_unique<JinjaChatTemplate>(*std::move(body));
}

absl::string_view ChatMlTemplate() {
  return "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
         "'<|im_end|>\\n' }}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
}

}  // namespace kvlink::model
