#include "worker/text/tokenizer_split.h"

#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests_source_dir.h"

namespace kvlink::model {
namespace {

nlohmann::json Golden(const char* name) {
  std::ifstream file(std::string(KVLINK_SOURCE_DIR "/tests/golden/tokenizer/") + name);
  EXPECT_TRUE(file.good()) << name;
  return nlohmann::json::parse(file);
}

std::vector<size_t> Lengths(const std::vector<SplitPattern>& patterns, absl::string_view text) {
  std::vector<absl::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  for (const SplitPattern pattern : patterns) {
    std::vector<absl::string_view> next;
    for (const absl::string_view piece : pieces) SplitText(pattern, piece, next);
    pieces = std::move(next);
  }
  std::vector<size_t> lengths;
  for (const absl::string_view piece : pieces) lengths.push_back(piece.size());
  return lengths;
}

TEST(Split, EqualsTheReference) {
  const auto strings = Golden("strings.json").get<std::vector<std::string>>();
  const nlohmann::json splits = Golden("splits.json");
  ASSERT_GE(strings.size(), 2000u);
  const std::vector<std::pair<const char*, std::vector<SplitPattern>>> kinds = {
      {"gpt2", {SplitPattern::kGpt2}},
      {"smollm", {SplitPattern::kDigits, SplitPattern::kGpt2}},
      {"llama3", {SplitPattern::kLlama3}},
      {"qwen2", {SplitPattern::kQwen2}},
  };
  for (const auto& [name, patterns] : kinds) {
    SCOPED_TRACE(name);
    for (size_t i = 0; i < strings.size(); ++i) {
      ASSERT_EQ(Lengths(patterns, strings[i]), splits[name][i].get<std::vector<size_t>>()) << strings[i];
    }
  }
}

TEST(Split, KnowsPatternsByTheirExactText) {
  const std::string gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(FindSplitPattern(gpt2), SplitPattern::kGpt2);
  EXPECT_EQ(FindSplitPattern(gpt2 + " "), std::nullopt);
  EXPECT_EQ(FindSplitPattern(""), std::nullopt);
}

}  // namespace
}  // namespace kvlink::model
