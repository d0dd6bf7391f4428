// Texts of random characters: nothing is lost, cut apart or put in twice.
#include "worker/data/passages.h"

#include <algorithm>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/seed.h"
#include "worker/data/language.h"

namespace kvlink::data {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string RandomText(std::mt19937_64& random, size_t characters) {
  constexpr absl::string_view kPieces[] = {"a", "word", " ", " ", ". ", "! ", "\n", "\n\n", "é", "雪", "😀"};
  std::string text;
  for (size_t i = 0; i < characters; ++i) absl::StrAppend(&text, kPieces[random() % std::size(kPieces)]);
  return text;
}

std::string WithoutSpace(absl::string_view text) { return absl::StrReplaceAll(text, {{" ", ""}, {"\n", ""}}); }

TEST(Passages, HoldTheWholeTextInWholeCharacters) {
  const testing::ScratchDirectory directory;
  const std::string path = directory.path() + "/text";
  std::mt19937_64 random(testing::TestSeed());
  for (const size_t max_bytes : {4, 10, 100, 1000, 100000}) {
    const std::string text = RandomText(random, 60000);
    std::ofstream(path, std::ios::binary) << text;
    Passages passages(*ingest::ByteStream::Open(path), static_cast<int64_t>(max_bytes));
    std::string joined;
    for (;;) {
      const auto passage = passages.Next();
      ASSERT_TRUE(passage.ok()) << passage.status();
      if (!passage->has_value()) break;
      const std::string& found = (*passage)->text;
      ASSERT_FALSE(found.empty());
      ASSERT_LE(found.size(), max_bytes);
      ASSERT_EQ(ValidUtf8Prefix(found), found.size());
      ASSERT_EQ(text.substr(static_cast<size_t>((*passage)->offset), found.size()), found);
      absl::StrAppend(&joined, found);
    }
    EXPECT_EQ(WithoutSpace(joined), WithoutSpace(text));
  }
}

TEST(Passages, AreCutWhereItHurtsLeast) {
  EXPECT_EQ(CutBefore("all of it", 9), 9u);
  EXPECT_EQ(CutBefore("One. Two.\n\nThree. Four.", 20), 11u) << "a paragraph";
  EXPECT_EQ(CutBefore("One. Two.\n\nThree. Four. Five.", 24), 24u) << "a sentence, where the paragraph is far off";
  EXPECT_EQ(CutBefore("one two three", 10), 8u);
  EXPECT_EQ(CutBefore("\xe9\x9b\xaa\xe9\x9b\xaa", 4), 3u);
  EXPECT_EQ(CutBefore("\xe9\x9b\xaa\xe9\x9b\xaa", 1), 3u) << "a whole character";
  EXPECT_EQ(CutBefore("\x9b\x9b\x9b\x9b\x9b\x9b", 5), 5u) << "no character";
}

TEST(Needles, AreFoundForPassagesThatHoldEveryTownAndNumber) {
  std::string passage;
  for (const absl::string_view begin : LanguageOf(Split::kTest).town[0]) {
    for (const absl::string_view middle : LanguageOf(Split::kTest).town[1]) {
      for (const absl::string_view end : LanguageOf(Split::kTest).town[2])
        absl::StrAppend(&passage, begin, middle, end, " ");
    }
  }
  // A sequence of de Bruijn: every number of five digits.
  std::vector<bool> stands(100000);
  std::string digits(5, '0');
  for (bool more = true; more;) {
    more = false;
    for (char digit = '9'; digit >= '0' && !more; --digit) {
      const size_t number = std::stoul(digits.substr(digits.size() - 4) + digit);
      if (number == 0 || stands[number]) continue;
      stands[number] = more = true;
      digits += digit;
    }
  }
  ASSERT_EQ(digits.size(), 100000u + 4);
  passage += digits;
  Random draw(testing::TestSeed());
  const Question question = NeedleQuestion(passage, 50, 4, draw);
  ASSERT_THAT(question.candidates, SizeIs(8));
  for (const std::string& candidate : question.candidates) EXPECT_EQ(passage.find(candidate), std::string::npos);
  EXPECT_EQ(passage.find(question.question.substr(std::string("What is the vault code of ").size())),
            std::string::npos);
}

TEST(Needles, StandAmongDocumentsWithText) {
  Random draw(testing::TestSeed());
  for (const std::string& passage : {std::string("\xf0\x9f\x98\x80"), absl::StrCat("a", std::string(60, ' '), "b")}) {
    for (const int64_t depth : {0, 50, 100}) {
      for (const Document& document : NeedleQuestion(passage, depth, 3, draw).documents) {
        EXPECT_FALSE(document.text.empty()) << depth;
        EXPECT_EQ(ValidUtf8Prefix(document.text), document.text.size()) << depth;
      }
    }
  }
}

TEST(Needles, StandOnceAtTheirDepthInAnUnchangedPassage) {
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 200; ++round) {
    const std::string passage = absl::StrCat("Begin. ", RandomText(random, 1 + random() % 3000), " End.");
    const int64_t depth = static_cast<int64_t>(random() % 101), documents = 1 + static_cast<int64_t>(random() % 8);
    Random draw(random());
    const Question question = NeedleQuestion(passage, depth, documents, draw);
    SCOPED_TRACE(absl::StrCat("depth ", depth, ", ", documents, " documents of ", passage));
    ASSERT_LE(static_cast<int64_t>(question.documents.size()), documents);
    ASSERT_THAT(question.gold, SizeIs(1));
    ASSERT_THAT(question.candidates, SizeIs(8));
    EXPECT_EQ(question.candidates[0], question.answers.at(0));
    const std::string needle = absl::StrCat(question.stem, " ", question.answers[0], ".");
    std::string joined;
    for (const Document& document : question.documents) absl::StrAppend(&joined, document.text, " ");
    const std::vector<std::string> around = absl::StrSplit(joined, needle);
    ASSERT_THAT(around, SizeIs(2)) << "stands once";
    EXPECT_THAT(question.documents.at(static_cast<size_t>(question.gold[0])).text, HasSubstr(needle));
    EXPECT_EQ(WithoutSpace(absl::StrCat(around[0], around[1])), WithoutSpace(passage));
    // At the beginning of a sentence of at most some hundred bytes.
    const double share = static_cast<double>(WithoutSpace(around[0]).size()) /
                         static_cast<double>(std::max<size_t>(WithoutSpace(passage).size(), 1));
    if (depth == 0) {
      EXPECT_EQ(share, 0);
    } else if (depth == 100) {
      EXPECT_EQ(share, 1);
    } else if (passage.size() > 4000) {
      EXPECT_NEAR(share, static_cast<double>(depth) / 100, 0.1);
    }
    for (const std::string& candidate : question.candidates) {
      EXPECT_EQ(passage.find(candidate), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace kvlink::data
