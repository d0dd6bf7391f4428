#include "worker/ingest/chunk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "tests/support/seed.h"
#include "tests/support/tiny_model.h"
#include "worker/files/open_tokenizer.h"

namespace kvlink::ingest {
namespace {

using ::testing::HasSubstr;

// Its tokenizer makes about one token of a byte.
class ChunkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = (std::filesystem::path(::testing::TempDir()) / absl::StrCat("chunk_", getpid())).string();
    ASSERT_TRUE(testing::WriteTinyModel(root_, {}).ok());
    tokenizer_ = *model::OpenTokenizer(root_);
    profile_ = *link::LoadLinkProfile("untuned");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  // Cut into parts of at most `limit` tokens; checks what always holds.
  std::vector<std::string> Cut(const std::string& text, int64_t limit, const std::string& title = "T") {
    const auto chunks = CutDocument(*tokenizer_, profile_, {limit, limit}, title, text);
    EXPECT_TRUE(chunks.ok()) << chunks.status();
    std::vector<std::string> parts;
    if (!chunks.ok()) return parts;
    size_t end = 0;
    for (const Chunk& chunk : *chunks) {
      EXPECT_LE(static_cast<int64_t>(chunk.tokens.size()), limit);
      EXPECT_LE(chunk.begin, chunk.end);
      EXPECT_GE(chunk.begin, end);
      EXPECT_TRUE(absl::StripAsciiWhitespace(text.substr(end, chunk.begin - end)).empty()) << "text is lost";
      end = chunk.end;
      parts.push_back(text.substr(chunk.begin, chunk.end - chunk.begin));
      EXPECT_EQ(ValidUtf8Prefix(parts.back()), parts.back().size()) << "a character is cut";
      EXPECT_EQ(tokenizer_->Decode(chunk.tokens, false), link::DocumentText(profile_, title, parts.back()));
    }
    EXPECT_TRUE(absl::StripAsciiWhitespace(text.substr(end)).empty()) << "text is lost";
    return parts;
  }

  std::string root_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  link::LinkProfile profile_;
};

TEST_F(ChunkTest, WhatFitsIsNotCut) {
  const std::string text = "One.\n\nTwo.  \n";
  EXPECT_THAT(Cut(text, 100), ::testing::ElementsAre(text));
}

TEST_F(ChunkTest, EndsAtParagraphs) {
  const std::string a(30, 'a'), b(25, 'b'), c(40, 'c'), d(20, 'd');
  EXPECT_THAT(Cut(absl::StrCat(a, "\n\n", b, "\n \n", c, "\n\n\n\n", d, "\n"), 71),
              ::testing::ElementsAre(absl::StrCat(a, "\n\n", b), c, d));
}

TEST_F(ChunkTest, EndsAtSentencesAndLinesWithinALongParagraph) {
  const std::string a(30, 'a'), b(28, 'b'), c(31, 'c');
  EXPECT_THAT(Cut(absl::StrCat(a, ". ", b, "! (", c, "?) ", a, "。", b, "\n", c), 60),
              ::testing::ElementsAre(absl::StrCat(a, "."), absl::StrCat(b, "!"), absl::StrCat("(", c, "?)"),
                                     absl::StrCat(a, "。"), b, c));
  // No end of a sentence: 3.14, and a.b.
  EXPECT_EQ(Cut("It is 3.14 of a.b and so on and so forth, which goes on.", 70).size(), 1u);
}

TEST_F(ChunkTest, AParagraphThatWouldLeaveAPartHalfEmptyIsNoPlaceToCut) {
  const std::string a(10, 'a'), b(30, 'b'), c(30, 'c');
  EXPECT_THAT(Cut(absl::StrCat(a, "\n\n", b, ". ", c, ".\n"), 60),
              ::testing::ElementsAre(absl::StrCat(a, "\n\n", b, "."), absl::StrCat(c, ".")));
}

TEST_F(ChunkTest, CutsWhatHasNoEndsBetweenWordsElseCharacters) {
  std::string words;
  for (int i = 0; i < 40; ++i) absl::StrAppend(&words, "word", i, " ");
  const std::vector<std::string> of_words = Cut(words, 60);
  for (size_t i = 0; i < of_words.size(); ++i) {
    EXPECT_TRUE(absl::StartsWith(of_words[i], "word")) << of_words[i];
    if (i + 1 < of_words.size()) {
      EXPECT_GT(of_words[i].size(), 20u);
    }
  }
  std::string solid, characters;
  for (int i = 0; i < 500; ++i) solid += static_cast<char>('a' + i * 7919 % 26);
  for (int i = 0; i < 100; ++i) characters += "水火木";
  for (const std::string& text : {solid, characters}) {
    const std::vector<std::string> parts = Cut(text, 80);
    // Full: as few as can be, and one for what does not come out even.
    EXPECT_LE(parts.size(), text.size() / 64 + 2);
  }
}

// Looking for an end at every mark of a run would take hours.
TEST_F(ChunkTest, LongRunsOfMarksAreNotQuadratic) {
  const std::string dots(size_t{1} << 20, '.');
  const std::string text = absl::StrCat("A sentence. ", dots, "x ends here.");
  const auto chunks = CutDocument(*tokenizer_, profile_, {1 << 20, 1 << 20}, "T", text);
  ASSERT_TRUE(chunks.ok()) << chunks.status();
  EXPECT_EQ(chunks->back().end, text.size());
}

TEST_F(ChunkTest, ATitleThatLeavesNoRoomIsRefused) {
  const auto refused = CutDocument(*tokenizer_, profile_, {40, 40}, std::string(30, 't'), std::string(100, 'x'));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("shorten the title, or raise --chunk-tokens"));
}

TEST_F(ChunkTest, LimitsFollowTheContext) {
  EXPECT_EQ(ChunkLimitsOf(0, 1000)->document, 1000);
  EXPECT_EQ(ChunkLimitsOf(0, 1000)->part, 500);
  EXPECT_EQ(ChunkLimitsOf(300, 1000)->document, 300);
  EXPECT_EQ(ChunkLimitsOf(300, 1000)->part, 300);
  EXPECT_EQ(ChunkLimitsOf(1001, 1000).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ChunkTest, AnyTextIsCutWithoutLoss) {
  std::mt19937_64 random(kvlink::testing::TestSeed());
  const std::vector<std::string> pieces = {"a",  "word ", ". ",  "\n", "\n\n", "  ",   "\t", "é",    "水",
                                           "。", "🙂",  "?\"", "x)", "1.5",  "\r\n", "!",  " the "};
  for (int round = 0; round < 300; ++round) {
    std::string text;
    const size_t count = random() % 400;
    for (size_t i = 0; i < count; ++i) {
      const std::string& piece = pieces[random() % pieces.size()];
      for (size_t n = random() % 8 == 0 ? random() % 60 : 1; n > 0; --n) text += piece;
    }
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    const int64_t limit = 32 + static_cast<int64_t>(random() % 200);
    EXPECT_EQ(Cut(text, limit), Cut(text, limit));
    if (HasFailure()) {
      ADD_FAILURE() << "round " << round << ", limit " << limit;
      return;
    }
  }
}

}  // namespace
}  // namespace kvlink::ingest
