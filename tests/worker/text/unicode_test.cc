#include "worker/text/unicode.h"

#include "gtest/gtest.h"

namespace kvlink::model {
namespace {

TEST(Unicode, Classes) {
  EXPECT_TRUE(IsLetter(U'a') && IsLetter(U'Z') && IsLetter(U'é') && IsLetter(U'日') && IsLetter(0x1E900) &&
              !IsLetter(U'@') && !IsLetter(U'['));
  EXPECT_TRUE(IsNumber(U'0') && IsNumber(U'½') && IsNumber(U'٣') && IsNumber(U'Ⅷ') && !IsNumber(U'/') &&
              !IsNumber(U':'));
  EXPECT_TRUE(IsSpace(U' ') && IsSpace(U'\t') && IsSpace(U'\r') && IsSpace(0x85) && IsSpace(0x3000) &&
              !IsSpace(0x200B) && !IsSpace(0x1F));
  EXPECT_TRUE(IsWord(U'_') && IsWord(U'é') && IsWord(0x301) && IsWord(U'Ⓐ') && !IsWord(U'-') && !IsWord(U'½'));
}

// The classes of Oniguruma 6.9.10, with which tokenizers 0.23 splits. Unicode 15.0 assigns none of these characters.
TEST(Unicode, ClassesAreOfTheReferencesVersion) {
  EXPECT_TRUE(IsLetter(0x2EBF0));                       // an ideograph of extension I, 15.1
  EXPECT_TRUE(IsLetter(0x10D50) && IsLetter(0x105C0));  // Garay and Todhri, 16.0
  EXPECT_TRUE(IsNumber(0x10D40) && IsNumber(0x16D70));  // digits of Garay and Kirat Rai, 16.0
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
