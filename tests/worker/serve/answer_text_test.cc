#include "worker/serve/answer_text.h"

#include <gtest/gtest.h>

#include <memory>

#include "absl/strings/str_join.h"
#include "tests/support/seed.h"

namespace kvlink::serve {
namespace {

// A token is a byte; 256 is special.
class Bytes : public model::Tokenizer {
 public:
  int64_t vocab_size() const override { return 257; }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string TokenBytes(int32_t id) const override { return std::string(1, static_cast<char>(id)); }
  std::string Decode(absl::Span<const int32_t> ids, bool) const override { return absl::StrJoin(ids, ""); }
  std::optional<int32_t> TokenId(absl::string_view) const override { return std::nullopt; }
  bool IsSpecial(int32_t id) const override { return id == 256; }
  std::optional<int32_t> bos() const override { return std::nullopt; }
};

struct Given {
  std::vector<std::string> pieces;
  std::string stop;
  std::string text() const { return absl::StrJoin(pieces, ""); }
};

Given Feed(const std::string& text, const std::vector<std::string>& stop) {
  const Bytes tokenizer;
  AnswerText answer(&tokenizer, stop);
  Given given;
  const auto ids = *tokenizer.Encode(text, false);
  for (size_t i = 0; i < ids.size() && !answer.stopped(); ++i) given.pieces.push_back(answer.Push(ids[i]));
  given.pieces.push_back(answer.Finish());
  given.stop = answer.stop_string();
  return given;
}

TEST(AnswerText, GivesOutWholeCharactersAtOnce) {
  EXPECT_EQ(Feed("a\xC3\xA9z", {}).pieces, (std::vector<std::string>{"a", "", "\xC3\xA9", "z", ""}));
  EXPECT_EQ(Feed("a\xC3", {}).pieces, (std::vector<std::string>{"a", "", "\xEF\xBF\xBD"}));
}

TEST(AnswerText, HoldsBackOnlyWhatMayBeginAStopString) {
  EXPECT_EQ(Feed("xaby", {"abc"}).pieces, (std::vector<std::string>{"x", "", "", "aby", ""}));
  EXPECT_EQ(Feed("xab", {"abc"}).pieces, (std::vector<std::string>{"x", "", "", "ab"}));
  EXPECT_EQ(Feed("xaabc!", {"abc"}).pieces, (std::vector<std::string>{"x", "", "a", "", "", ""}));
}

TEST(AnswerText, TheFirstCompleteStopStringEndsTheAnswer) {
  EXPECT_EQ(Feed("one END two", {"two", "END"}).text(), "one ");
  EXPECT_EQ(Feed("one END two", {"two", "END"}).stop, "END");
  EXPECT_EQ(Feed("abc", {"abc", "b"}).text(), "a");
  EXPECT_EQ(Feed("abc", {"bc", "abc"}).stop, "abc");
  EXPECT_EQ(Feed("stop", {"stop"}).text(), "");
  EXPECT_EQ(Feed("a\n\nb", {"\n\n"}).text(), "a");
}

TEST(AnswerText, SpecialTokensHaveNoText) {
  const Bytes tokenizer;
  AnswerText answer(&tokenizer, {});
  EXPECT_EQ(answer.Push(256), "");
  EXPECT_EQ(answer.Push('a'), "a");
}

// However a text is divided, the answer is what stands before the first complete stop string.
TEST(AnswerText, EqualsASearchInTheWholeText) {
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (uint64_t i = random() % 20; i > 0; --i) text += static_cast<char>('a' + random() % 2);
    std::vector<std::string> stop(random() % 3 + 1);
    for (std::string& one : stop) {
      for (uint64_t i = random() % 4 + 1; i > 0; --i) one += static_cast<char>('a' + random() % 2);
    }
    std::string expected = text;
    for (size_t end = 1; end <= text.size() && expected == text; ++end) {
      size_t longest = 0;
      for (const std::string& one : stop) {
        const bool here = end >= one.size() && text.compare(end - one.size(), one.size(), one) == 0;
        if (here) longest = std::max(longest, one.size());
      }
      if (longest > 0) expected = text.substr(0, end - longest);
    }
    ASSERT_EQ(Feed(text, stop).text(), expected) << text << " stopped by " << absl::StrJoin(stop, ", ");
  }
}

}  // namespace
}  // namespace kvlink::serve
