#include "worker/cli/questions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace kvlink::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class Questions : public ::testing::Test {
 protected:
  ~Questions() override { std::filesystem::remove(path_); }
  absl::StatusOr<std::vector<Question>> Read(const std::string& lines) const {
    std::ofstream(path_, std::ios::binary) << lines;
    return ReadQuestions(path_);
  }
  const std::string path_ = absl::StrCat(::testing::TempDir(), "/questions_", getpid(), ".jsonl");
};

TEST_F(Questions, AnAnswerIsTextOrAListOfSpellings) {
  const auto questions =
      Read(R"({"question": "How tall?", "documents": ["a", {"id": "b", "parts": "2-"}], "answer": "330 metres"}

{"question": "Again?", "documents": [], "answer": ["330 metres", "330 meters"]}
{"question": "And now?", "documents": ["c"]})");
  ASSERT_TRUE(questions.ok()) << questions.status();
  ASSERT_EQ(questions->size(), 3u);
  EXPECT_EQ((*questions)[0].text, "How tall?");
  ASSERT_EQ((*questions)[0].documents.size(), 2u);
  EXPECT_EQ(Spelled((*questions)[0].documents[0]), "a");
  EXPECT_EQ(Spelled((*questions)[0].documents[1]), "b=2-");
  EXPECT_THAT((*questions)[0].expected, ElementsAre("330 metres"));
  EXPECT_THAT((*questions)[1].expected, ElementsAre("330 metres", "330 meters"));
  EXPECT_THAT((*questions)[2].expected, IsEmpty());
}

TEST_F(Questions, AnyOtherAnswerIsRefusedByFileAndLine) {
  for (const char* answer : {"330", "null", "true", "{\"text\": \"330\"}", "[]", "[330]", "[\"330\", 330]",
                             "[[\"330\"]]", "\"\"", "[\"330\", \"\"]"}) {
    const auto questions = Read(absl::StrCat("\n{\"question\": \"q\", \"documents\": [], \"answer\": ", answer, "}\n"));
    EXPECT_EQ(questions.status().code(), absl::StatusCode::kInvalidArgument) << answer;
    EXPECT_EQ(questions.status().message(),
              absl::StrCat(path_, ":2: \"answer\" must be a string or a list of accepted spellings"));
  }
}

TEST_F(Questions, OtherMistakesAreRefusedByFileAndLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"[]", ":1: not a JSON object"},
      {"{\"question\"", ":1: not a JSON object"},
      {"{\"documents\": []}", ":1: \"question\" is missing or not a string"},
      {"{\"question\": \"q\", \"documents\": \"a\"}", ":1: \"documents\" is missing or not an array"},
      {"{\"question\": \"q\", \"documents\": [1]}",
       ":1: \"documents\" must contain ids or {\"id\": \"...\", \"parts\": \"2-5\"}"},
      {"{\"question\": \"q\", \"documents\": [{\"id\": \"a\", \"parts\": 2}]}",
       ":1: \"documents\" must contain ids or {\"id\": \"...\", \"parts\": \"2-5\"}"},
      {"{\"question\": \"q\", \"documents\": [{\"id\": \"a\", \"parts\": \"5-2\"}]}",
       ":1: '5-2' is not a range of parts, counted from 1; write 3, 2-5, or 2- for the second part to the last"},
      {"\n", ": contains no questions"},
  };
  for (const auto& [line, message] : cases) EXPECT_EQ(Read(line).status().message(), absl::StrCat(path_, message));
}

TEST(Holds, OneSpellingIsEnoughInEitherCase) {
  const std::vector<std::string> spellings = {"330 metres", "330 Meters"};
  EXPECT_TRUE(Holds("It is 330 METRES tall.", spellings));
  EXPECT_TRUE(Holds("It is 330 meters tall.", spellings));
  EXPECT_FALSE(Holds("It is 300 metres tall.", spellings));
  EXPECT_FALSE(Holds("", spellings));
}

}  // namespace
}  // namespace kvlink::cli
