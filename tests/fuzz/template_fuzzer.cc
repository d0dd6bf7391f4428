// Chat templates from anywhere, over messages that reach every part: no crash, no leak, and errors of one line.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "worker/text/template/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = kvlink::model::ChatTemplate::Parse(source);
  if (!parsed.ok()) {
    if (parsed.status().message().find('\n') != absl::string_view::npos) std::abort();
    return 0;
  }
  const std::vector<kvlink::model::ChatMessage> messages = {
      {"system", {{" Be <|im_end|> brief. "}}},
      {"user", {{"a,b\n \xC3\xA9"}, {"", 1}, {"\n42 "}}},
      {"assistant", {{"<think>x</think>y"}}},
      {"user", {{source.size() < 100 ? std::string("k") : std::string()}}},
  };
  kvlink::model::ChatOptions options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  options.date = "24 Nov 2026";
  const auto spans = (*parsed)->Render(messages, options);
  if (!spans.ok()) return 0;
  // Spans are never empty, and neighbours differ.
  for (size_t i = 0; i < spans->size(); ++i) {
    const auto& span = (*spans)[i];
    if (span.mark < 0 && span.text.empty()) std::abort();
    if (span.mark >= 0 && (span.trusted || !span.text.empty())) std::abort();
    if (i > 0 && span.mark < 0 && (*spans)[i - 1].mark < 0 && (*spans)[i - 1].trusted == span.trusted) std::abort();
  }
  return 0;
}
