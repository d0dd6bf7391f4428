#include "worker/text/unicode.h"

#include "gtest/gtest.h"

namespace kvlink::model {
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

TEST(Unicode, Classes) {
  EXPECT_TRUE(IsLetter(U'a') && IsLetter(U'Z') && IsLetter(U'é') && IsLetter(U'日') && IsLetter(0x1E900) &&
              !IsLetter(U'@') && !IsLetter(U'['));
  EXPECT_TRUE(IsNumber(U'0') && IsNumber(U'½') && IsNumber(U'٣') && IsNumber(U'Ⅷ') && !IsNumber(U'/') &&
              !IsNumber(U':'));
  EXPECT_TRUE(IsSpace(U' ') && IsSpace(U'\t') && IsSpace(U'\r') && IsSpace(0x85) && IsSpace(0x3000) &&
              !IsSpace(0x200B) && !IsSpace(0x1F));
  EXPECT_TRUE(IsWord(U'_') && IsWord(U'é') && IsWord(0x301) && IsWord(U'Ⓐ') && !IsWord(U'-') && !IsWord(U'½'));
}

// From NormalizationTest.txt of the Unicode Character Database, parts 1 and 2 by kind.
TEST(Unicode, ComposesCanonically) {
  EXPECT_EQ(ComposeCanonical(""), "");
  EXPECT_EQ(ComposeCanonical("plain \u00E9"), "plain \u00E9");
  EXPECT_EQ(ComposeCanonical("e\u0301"), "\u00E9");
  EXPECT_EQ(ComposeCanonical("D\u0307\u0323"), "\u1E0C\u0307");  // reordered, then composed
  EXPECT_EQ(ComposeCanonical("\u1E0A\u0323"), "\u1E0C\u0307");
  EXPECT_EQ(ComposeCanonical("\u212B\u2126\uF900"), "\u00C5\u03A9\u8C48");  // mappings to one character
  EXPECT_EQ(ComposeCanonical("\u0958"), "\u0915\u093C");                    // excluded from composition
  EXPECT_EQ(ComposeCanonical("\u1112\u1161\u11AB\uD558\u11AB"), "\uD55C\uD55C");
  EXPECT_EQ(ComposeCanonical("\u0344"), "\u0308\u0301");
  EXPECT_EQ(ComposeCanonical("a\u0315\u0300\u05AE\u0062"), "\u00E0\u05AE\u0315b");
  EXPECT_EQ(ComposeCanonical("a\u0301\u0301"), "\u00E1\u0301");  // blocked by an equal class
  EXPECT_EQ(ComposeCanonical("\u0301a"), "\u0301a");
}

}  // namespace
}  // namespace kvlink::model
