#include "base/utf8.h"

#include "gtest/gtest.h"

namespace kvlink {
namespace {

TEST(Utf8, EveryCodePointSurvives) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, text);
    const Utf8Character character = DecodeUtf8(text);
    ASSERT_EQ(character.kind, Utf8Character::kValid);
    ASSERT_EQ(character.code_point, c);
    ASSERT_EQ(character.size, text.size());
    for (size_t cut = 1; cut < text.size(); ++cut) {
      ASSERT_EQ(DecodeUtf8(absl::string_view(text).substr(0, cut)).kind, Utf8Character::kIncomplete);
    }
  }
}

std::string Lossy(absl::string_view bytes) {
  std::string out;
  EXPECT_EQ(AppendLossyUtf8(bytes, /*final=*/true, out), bytes.size());
  return out;
}

// Unicode 16.0, section 3.9, tables 3-8 to 3-11.
TEST(Utf8, OneReplacementForEachMaximalSubpart) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(Lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(Lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

TEST(Utf8, IncompleteEndWaits) {
  std::string out;
  EXPECT_EQ(AppendLossyUtf8("a\xE2\x82", /*final=*/false, out), 1u);
  EXPECT_EQ(out, "a");
}

}  // namespace
}  // namespace kvlink
