// A tokenizer of listed tokens: every byte, and whatever else a test wants.
#ifndef KVLINK_TESTS_WORKER_GRAMMAR_LIST_TOKENIZER_H_
#define KVLINK_TESTS_WORKER_GRAMMAR_LIST_TOKENIZER_H_

#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "worker/text/tokenizer.h"

namespace kvlink::grammar::testing {

class ListTokenizer final : public model::Tokenizer {
 public:
  // Token 0 is special, and 1 stands for nothing; then come the bytes, and the others.
  explicit ListTokenizer(const std::vector<std::string>& others) : tokens_({"<end>", ""}) {
    for (int byte = 0; byte < 256; ++byte) tokens_.emplace_back(1, static_cast<char>(byte));
    tokens_.insert(tokens_.end(), others.begin(), others.end());
  }
  // With tokens of JSON and of characters in pieces, some of them twice, and random ones.
  static ListTokenizer Random(std::mt19937_64& random, int count) {
    std::vector<std::string> others = {
        "\":",      "\": \"",       "\",",     "\"},{\"",  "{}",   "[[",          "]]",   "}}",
        "\\u",      "\\u00",        "\\\"",    "\n  ",     "\n\n", " ",           "  ",   "true",
        "null",     "12",           "0.5",     "e+1",      "\"a",  "\"b\":",      "\xC3", "\xA4\"",
        "\xC3\xA4", "\xF0\x9F\x98", "\x80\"}", "\xE2\x82", "\xAC", "d83d\\ude00", "\"\"", "```json"};
    const std::string alphabet = "ab\"\\{}[]:, 01-.\n\xC3\xA4u";
    while (static_cast<int>(others.size()) < count) {
      std::string token;
      for (uint64_t size = 2 + random() % 5; size > 0; --size) token += alphabet[random() % alphabet.size()];
      others.push_back(token);
    }
    return ListTokenizer(others);
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  // The longest token that fits, again and again.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool /*parse_special*/) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      size_t best = 0;
      for (size_t id = 2; id < tokens_.size(); ++id) {
        if (tokens_[id].size() > tokens_[best].size() * (best > 0 ? 1 : 0) && absl::StartsWith(text, tokens_[id]))
          best = id;
      }
      ids.push_back(static_cast<int32_t>(best));
      text.remove_prefix(tokens_[best].size());
    }
    return ids;
  }
  std::string TokenBytes(int32_t id) const override { return tokens_[id]; }
  std::string Decode(absl::Span<const int32_t> ids, bool /*skip_special*/) const override {
    std::string text;
    for (const int32_t id : ids) text += tokens_[id];
    return text;
  }
  std::optional<int32_t> TokenId(absl::string_view /*text*/) const override { return std::nullopt; }
  bool IsSpecial(int32_t id) const override { return id == 0; }
  std::optional<int32_t> bos() const override { return std::nullopt; }

  // Some tokens that spell the text.
  std::vector<int32_t> AnyTokens(absl::string_view text, std::mt19937_64& random) const {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      std::vector<int32_t> fitting;
      for (size_t id = 2; id < tokens_.size(); ++id) {
        if (absl::StartsWith(text, tokens_[id])) fitting.push_back(static_cast<int32_t>(id));
      }
      ids.push_back(fitting[random() % fitting.size()]);
      text.remove_prefix(tokens_[ids.back()].size());
    }
    return ids;
  }

 private:
  std::vector<std::string> tokens_;
};

}  // namespace kvlink::grammar::testing

#endif  // KVLINK_TESTS_WORKER_GRAMMAR_LIST_TOKENIZER_H_
