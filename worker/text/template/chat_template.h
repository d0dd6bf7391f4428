// Renders a model's chat template: a small, bounded interpreter of the Jinja that the llama, mistral, qwen2, qwen3 and
// SmolLM families' templates use. Output is spans of (text, trusted): what the template itself wrote is trusted, what
// came out of a message is not, so that control tokens typed by a user or standing in a document stay ordinary
// characters. A role that is one of system, user, assistant and tool counts as the template's: templates build control
// tokens from it.
//
// Thread-safety: immutable after Parse. Bounds: template 256 KiB, output 16 MiB, 1M interpreter steps, nesting 64 deep.
// Errors: INVALID_ARGUMENT "line N: ..." for syntax and for what Python would raise, and for text that is not UTF-8;
// UNIMPLEMENTED naming the filter, test or statement we do not have; FAILED_PRECONDITION with the text of
// raise_exception(); RESOURCE_EXHAUSTED when a bound is passed.
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
  // The content, in pieces. A piece may be a mark: a place, not text, that comes out as RenderedSpan::mark.
  struct Piece {
    std::string text;
    int mark = -1;  // >= 0: a mark with this number and no text
  };
  std::vector<Piece> content;
};

// The template's globals beside `messages`.
struct ChatOptions {
  bool add_generation_prompt = true;
  std::string bos_token;
  std::string eos_token;
  std::string date;  // strftime_now's answer for "%d %b %Y"; empty: today
  bool enable_thinking = false;
};

struct RenderedSpan {
  std::string text;
  bool trusted = false;
  int mark = -1;  // >= 0: the mark of ChatMessage::Piece stands here
};

class ChatTemplate {
 public:
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(absl::string_view source);
  virtual ~ChatTemplate() = default;
  // String operations of the template (trim, replace, slices, +) keep each character's trust, and keep marks in place.
  virtual absl::StatusOr<std::vector<RenderedSpan>> Render(const std::vector<ChatMessage>& messages,
                                                           const ChatOptions& options) const = 0;
};

// ChatML, for models that bring no template.
absl::string_view ChatMlTemplate();

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TEMPLATE_CHAT_TEMPLATE_H_
