// Tokenizer descriptions and texts. Input: "G" and a line for each token of a GGUF (type digit, score digit, text;
// merges behind an empty line), or a tokenizer.json; after a zero byte the text to encode. Some GGUFs get a token for
// every byte: their text survives.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/str_split.h"
#include "base/utf8.h"
#include "worker/files/open_tokenizer.h"
#include "worker/text/tokenizer.h"
#include "worker/text/tokenizer_bpe.h"

namespace {

using kvlink::model::GgufTokenizer;
using kvlink::model::Tokenizer;

// Whether FromLines makes a tokenizer that changes no text: it has all bytes, and no normaliser.
bool KeepsText(absl::string_view lines) { return lines.size() % 8 == 5 || lines.size() % 8 == 7; }

absl::StatusOr<std::unique_ptr<Tokenizer>> FromLines(absl::string_view lines) {
  GgufTokenizer gguf;
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(lines, absl::MaxSplits("\n\n", 1));
  const int kind = lines.size() % 4;
  gguf.model = kind == 0 ? "llama" : "gpt2";
  gguf.pre = kind == 1 ? "llama-bpe" : kind == 2 ? "qwen2" : "smollm";
  gguf.unknown = 0;
  for (const absl::string_view line : absl::StrSplit(parts.first, '\n')) {
    if (line.size() < 3) continue;
    gguf.token_types.push_back(line[0] - '0');
    gguf.scores.push_back(static_cast<float>(line[1]));
    gguf.tokens.emplace_back(line.substr(2));
  }
  for (int byte = 0; byte < 256 && KeepsText(lines); ++byte) {
    gguf.tokens.emplace_back();
    kvlink::AppendUtf8(kvlink::model::ByteCharacter(static_cast<uint8_t>(byte)), gguf.tokens.back());
    gguf.token_types.push_back(1);
  }
  for (const absl::string_view line : absl::StrSplit(parts.second, '\n', absl::SkipEmpty()))
    gguf.merges.emplace_back(line);
  return kvlink::model::MakeGgufTokenizer(std::move(gguf));
}

void Check(bool condition) {
  if (!condition) std::abort();
}

void Exercise(const Tokenizer& tokenizer, bool gguf, bool keeps_text, const std::string& text) {
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.Encode(text, parse_special);
    if (!ids.ok()) return;
    kvlink::model::StreamDecoder decoder(&tokenizer);
    std::string streamed;
    for (const int32_t id : *ids) {
      Check(id >= 0 && id < tokenizer.vocab_size());
      // Plain text gives no control token except the unknown one (id 0).
      const bool control = gguf && tokenizer.IsSpecial(id) && id != 0;
      Check(parse_special || !control);
      streamed += decoder.Push(id);
    }
    streamed += decoder.Finish();
    Check(streamed == tokenizer.Decode(*ids, false));
    Check(!keeps_text || streamed == text);
    const std::string half = text.substr(0, text.size() / 2);
    (void)EncodeSpans(tokenizer, {{half, true}, {text, parse_special}});
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(input, absl::MaxSplits('\0', 1));
  const bool gguf = !parts.first.empty() && parts.first[0] == 'G';
  const auto tokenizer = gguf ? FromLines(parts.first.substr(1)) : kvlink::model::ParseTokenizerJson(parts.first);
  if (!tokenizer.ok()) return 0;
  const bool keeps_text = gguf && KeepsText(parts.first.substr(1));
  Exercise(**tokenizer, gguf, keeps_text, std::string(parts.second));
  Exercise(**tokenizer, gguf, keeps_text, "It's 123 <x> a\xCC\x81  \n ab \xE2\x96\x81");
  return 0;
}
