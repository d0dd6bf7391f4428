// Renders a model's chat template with a small, bounded interpreter for the Jinja used by templates of the llama,
// mistral, qwen2, qwen3 and SmolLM families. Output is spans of (text, trusted): text written by the template is
// trusted, text from a message is not, so that control tokens in a user's message or a document stay ordinary
// characters. The roles system, user, assistant and tool count as the template's text, because templates build control
// tokens from them.
//
// Thread-safety: immutable after Parse. Bounds: template 256 KiB, output 16 MiB, 1M interpreter steps, nesting 64 deep.
// Errors: INVALID_ARGUMENT "line N: ..." for syntax errors, for what Python would raise, and for text that is not
// UTF-8; UNIMPLEMENTED naming an unsupported filter, test or statement; FAILED_PRECONDITION with the message of
// raise_exception(); RESOURCE_EXHAUSTED when a bound is exceeded.
#ifndef KVLINK_WORKER_TEXT_TEMPLATE_CHAT_TEMPLATE_H_
#define KVLINK_WORKER_TEXT_TEMPLATE_CHAT_TEMPLATE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/tokenizer.h"

namespace kvlink::model {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  // The content, in pieces. A piece may be a mark: a place without text, returned as RenderedSpan::mark.
  struct Piece {
    std::string text;
    int mark = -1;  // >= 0: a mark with this number and no text
  };
  std::vector<Piece> content;
};

// The template's globals other than `messages`.
struct ChatOptions {
  bool add_generation_prompt = true;
  std::string bos_token;
  std::string eos_token;
  std::string date;  // the result of strftime_now for "%d %b %Y"; empty: today
  bool enable_thinking = false;
};

struct RenderedSpan {
  std::string text;
  bool trusted = false;
  int mark = -1;  // >= 0: this is the place of the mark in ChatMessage::Piece
};

class ChatTemplate {
 public:
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(absl::string_view source);
  virtual ~ChatTemplate() = default;
  // String operations of the template (trim, replace, slices, +) preserve each character's trust and the place of
  // marks.
  virtual absl::StatusOr<std::vector<RenderedSpan>> Render(const std::vector<ChatMessage>& messages,
                                                           const ChatOptions& options) const = 0;
};

// ChatML, for models without a template.
absl::string_view ChatMlTemplate();

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TEMPLATE_CHAT_TEMPLATE_H_
