// Files of the shapes in which public data sets are published, whole and damaged.
#include "worker/data/reader.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"
#include "tests_source_dir.h"
#include "worker/data/question_generator.h"

namespace kvlink::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

std::string Shape(const std::string& name) {
  return absl::StrCat(KVLINK_SOURCE_DIR, "/tests/worker/data/shapes/", name);
}

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// All examples of a file, up to an error.
absl::Status ReadAll(Format format, const std::string& path, const ReaderOptions& options,
                     std::vector<Example>* examples) {
  const auto reader = Reader::Open(format, path, options);
  if (!reader.ok()) return reader.status();
  for (;;) {
    auto example = (*reader)->Next();
    if (!example.ok()) {
      EXPECT_EQ((*reader)->Next().status(), example.status()) << "an error stays";
      return example.status();
    }
    if (!example->has_value()) return absl::OkStatus();
    examples->push_back(**std::move(example));
  }
}

std::vector<Example> Read(Format format, const std::string& name) {
  std::vector<Example> examples;
  const absl::Status status = ReadAll(format, Shape(name), {}, &examples);
  EXPECT_TRUE(status.ok()) << status;
  for (const Example& example : examples) EXPECT_EQ(example.kind, FormatName(format));
  return examples;
}

template <typename Task>
Task Of(const Example& example) {
  const Task* const task = std::get_if<Task>(&example.task);
  EXPECT_NE(task, nullptr) << "another kind of task";
  return task != nullptr ? *task : Task();
}

class ReaderTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& bytes) const {
    const std::string path = absl::StrCat(directory_.path(), "/", name);
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  // The error of a file, which must name it.
  std::string Refused(Format format, const std::string& bytes, const std::string& name = "data") const {
    const std::string path = Write(name, bytes);
    std::vector<Example> examples;
    const absl::Status status = ReadAll(format, path, {}, &examples);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status << "\n" << bytes;
    EXPECT_THAT(std::string(status.message()), StartsWith(path));
    return std::string(status.message()).substr(std::min(path.size(), status.message().size()));
  }

  const testing::ScratchDirectory directory_;
};

TEST_F(ReaderTest, HotpotQa) {
  for (const char* name : {"hotpotqa.json", "hotpotqa_columns.jsonl"}) {
    SCOPED_TRACE(name);
    const std::vector<Example> examples = Read(Format::kHotpotQa, name);
    ASSERT_THAT(examples, SizeIs(2));
    EXPECT_EQ(examples[0].id, "5a8b57f25542995d1e6f1371");
    const Question first = Of<Question>(examples[0]), second = Of<Question>(examples[1]);
    EXPECT_EQ(first.question, "Were Ada Quill and Bo Marsh both painters?");
    EXPECT_THAT(first.answers, ElementsAre("yes"));
    EXPECT_THAT(first.candidates, ElementsAre("yes", "no"));
    EXPECT_THAT(first.gold, ElementsAre(1, 2));
    ASSERT_THAT(first.documents, SizeIs(3));
    EXPECT_EQ(first.documents[1].title, "Ada Quill");
    EXPECT_EQ(first.documents[1].text, "Ada Quill (1850 – 1911) was a painter. She wrote \"[letters]\" too.");
    EXPECT_THAT(second.candidates, IsEmpty());
    EXPECT_THAT(second.gold, ElementsAre(0, 1)) << "a supporting fact of a document that is not there is none";
  }
}

TEST_F(ReaderTest, TwoWiki) {
  const std::vector<Example> examples = Read(Format::kTwoWiki, "2wiki.json");
  ASSERT_THAT(examples, SizeIs(1));
  const Question question = Of<Question>(examples[0]);
  EXPECT_THAT(question.answers, ElementsAre("Ines Holm"));
  EXPECT_THAT(question.gold, ElementsAre(0, 1));
  EXPECT_EQ(question.documents[1].text, "Lea Holm was a director. Her mother was Ines Holm.");
}

TEST_F(ReaderTest, Musique) {
  const std::vector<Example> examples = Read(Format::kMusique, "musique.jsonl");
  ASSERT_THAT(examples, SizeIs(2));
  const Question question = Of<Question>(examples[0]);
  EXPECT_THAT(question.answers, ElementsAre("Wye Sea", "Sea of Wye"));
  EXPECT_THAT(question.gold, ElementsAre(0, 2));
  EXPECT_EQ(question.documents[2].title, "Tarn");
  EXPECT_EQ(question.documents[2].text, "The Tarn flows into the Wye Sea.");
  EXPECT_EQ(Of<Question>(examples[1]).answers, UnknownAnswers()) << "not answerable";
}

TEST_F(ReaderTest, NaturalQuestionsCompressed) {
  const std::vector<Example> examples = Read(Format::kNaturalQuestions, "nq.jsonl.gz");
  ASSERT_THAT(examples, SizeIs(1));
  EXPECT_EQ(examples[0].id, "1") << "the line, as it has no id";
  const Question question = Of<Question>(examples[0]);
  EXPECT_THAT(question.answers, ElementsAre("Ida Wye", "I. Wye"));
  EXPECT_THAT(question.gold, ElementsAre(1));
  EXPECT_EQ(question.documents[1].title, "Tarn Songs");
}

TEST_F(ReaderTest, TriviaQa) {
  const std::vector<Example> examples = Read(Format::kTriviaQa, "triviaqa.json");
  ASSERT_THAT(examples, SizeIs(2));
  EXPECT_EQ(examples[0].id, "0");
  EXPECT_EQ(examples[1].id, "2") << "the element, as it has no id";
  const Question question = Of<Question>(examples[0]);
  EXPECT_THAT(question.answers, ElementsAre("Polonium", "Po (element)", "Po")) << "the target first, and once";
  EXPECT_THAT(question.documents, SizeIs(2));
  EXPECT_THAT(question.gold, IsEmpty());
}

TEST_F(ReaderTest, MultiNews) {
  for (const char* name : {"multinews.jsonl", "multinews.src"}) {
    SCOPED_TRACE(name);
    const std::vector<Example> examples = Read(Format::kMultiNews, name);
    ASSERT_FALSE(examples.empty());
    const Summary summary = Of<Summary>(examples[0]);
    ASSERT_THAT(summary.documents, SizeIs(2));
    EXPECT_EQ(summary.documents[0].text, "First article.\nIt goes on.");
    EXPECT_EQ(summary.documents[1].text, "Second article.");
    EXPECT_EQ(summary.summary, "– Two articles were written.");
    EXPECT_THAT(summary.instruction, HasSubstr("articles"));
  }
  EXPECT_EQ(Of<Summary>(Read(Format::kMultiNews, "multinews.src").at(1)).summary, "– A third was.");
}

TEST_F(ReaderTest, SamsumAndXsum) {
  const Summary dialogue = Of<Summary>(Read(Format::kSamsum, "samsum.json").at(0));
  EXPECT_THAT(dialogue.documents.at(0).text, AllOf(StartsWith("Amanda: I baked"), HasSubstr("\r\nJerry: Sure!")));
  EXPECT_EQ(dialogue.summary, "Amanda baked cookies and will bring Jerry some tomorrow.");
  const std::vector<Example> articles = Read(Format::kXsum, "xsum.jsonl");
  EXPECT_EQ(articles.at(0).id, "35232142");
  EXPECT_EQ(Of<Summary>(articles[0]).documents.at(0).text, "The bridge was closed.\nIt will open again.");
  EXPECT_EQ(Of<Summary>(articles[0]).summary, "A bridge is closed.");
}

TEST_F(ReaderTest, Chats) {
  using Role = Turn::Role;
  const auto turns = [](const Example& example) {
    std::vector<std::pair<Role, std::string>> turns;
    for (const Turn& turn : Of<Chat>(example).turns) turns.push_back({turn.role, turn.text});
    return turns;
  };
  const std::vector<Example> tulu = Read(Format::kChat, "tulu.jsonl");
  EXPECT_EQ(tulu.at(0).id, "flan_1");
  EXPECT_THAT(turns(tulu[0]),
              ElementsAre(std::pair(Role::kSystem, "Be brief."), std::pair(Role::kUser, "Name a river."),
                          std::pair(Role::kAssistant, "The Tarn."), std::pair(Role::kUser, "Where does it flow?"),
                          std::pair(Role::kAssistant, "Into the Wye Sea.")));
  const std::vector<Example> anteater = Read(Format::kChat, "daring_anteater.jsonl");
  ASSERT_THAT(anteater, SizeIs(2));
  EXPECT_THAT(turns(anteater[0]), ElementsAre(std::pair(Role::kUser, "2 + 2?"), std::pair(Role::kAssistant, "4")));
  EXPECT_THAT(turns(anteater[1]), ElementsAre(std::pair(Role::kSystem, "Be kind."), std::pair(Role::kUser, "Hello"),
                                              std::pair(Role::kAssistant, "Hello!")));
}

TEST_F(ReaderTest, TextFromPlainFilesAndJsonLines) {
  ReaderOptions options;
  options.passage_bytes = 125;
  std::vector<Example> passages;
  ASSERT_TRUE(ReadAll(Format::kText, Shape("book.txt"), options, &passages).ok());
  ASSERT_THAT(passages, SizeIs(3));
  EXPECT_THAT(Of<Text>(passages[1]).text, StartsWith("In spring the pond rose."));
  EXPECT_EQ(passages[2].id, "3");
  std::vector<Example> lines;
  ASSERT_TRUE(ReadAll(Format::kText, Write("c4.jsonl", "{\"text\": \"One.\", \"url\": \"x\"}\n\n{\"text\": \"Two.\"}"),
                      {}, &lines)
                  .ok());
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_EQ(Of<Text>(lines[1]).text, "Two.");
  EXPECT_EQ(lines[1].id, "3");
  EXPECT_THAT(Refused(Format::kText, "good text\n\n\xff\xfe", "bad.txt"),
              HasSubstr("passage 1: invalid UTF-8 at byte 11"));
}

TEST_F(ReaderTest, NeedlesAtEachDepth) {
  ReaderOptions options;
  options.needle_documents = 3;
  const auto read = [&](uint64_t seed) {
    options.seed = seed;
    std::vector<Example> examples;
    EXPECT_TRUE(ReadAll(Format::kNeedle, Shape("book.txt"), options, &examples).ok());
    return examples;
  };
  const std::vector<Example> examples = read(1);
  ASSERT_THAT(examples, SizeIs(5)) << "one passage";
  EXPECT_EQ(examples[2].kind, "needle-50");
  EXPECT_THAT(Of<Question>(examples[0]).gold, ElementsAre(0));
  EXPECT_THAT(Of<Question>(examples[4]).gold, ElementsAre(2));
  EXPECT_THAT(Of<Question>(examples[4]).documents.at(2).text, HasSubstr(Of<Question>(examples[4]).answers.at(0)));
  EXPECT_EQ(Of<Question>(read(1)[3]).answers, Of<Question>(examples[3]).answers);
  EXPECT_NE(Of<Question>(read(2)[3]).answers, Of<Question>(examples[3]).answers);
}

TEST_F(ReaderTest, DamagedExamplesAreNamed) {
  const auto musique = [](const std::string& paragraph) {
    return absl::StrCat("{\"question\": \"q\", \"answer\": \"a\", \"paragraphs\": [", paragraph, "]}");
  };
  const struct {
    Format format;
    std::string bytes;
    std::string expected;
  } cases[] = {
      {Format::kMusique, "{\"question\": \"q\"", ":1: not JSON at byte "},
      {Format::kMusique, "\n\"text\"\n", ":2: expected an object, found a string"},
      {Format::kMusique, "{\"question\": \"\xff\"}", ":1: not JSON at byte "},
      {Format::kMusique, absl::StrCat("{\"question\": ", std::string(100, '['), std::string(100, ']'), "}"),
       ":1: lists and objects are nested more than 64 deep"},
      {Format::kMusique, musique(""), ":1: \"paragraphs\": expected at least one, found an empty list"},
      {Format::kMusique, musique("{\"title\": \"t\", \"paragraph_text\": \"p\"}"),
       ":1: \"paragraphs\"[0].\"is_supporting\": missing, expected true or false"},
      {Format::kMusique, musique("{\"title\": 7, \"paragraph_text\": \"p\", \"is_supporting\": true}"),
       ":1: \"paragraphs\"[0].\"title\": expected a string, found a number"},
      {Format::kMusique, musique("3"), ":1: \"paragraphs\"[0]: expected an object with the member"},
      {Format::kHotpotQa, "[{\"question\": \"q\", \"answer\": \" \"}]",
       ", element 1: \"answer\": expected a string with text, found a string"},
      {Format::kHotpotQa,
       "[{\"question\": \"q\", \"answer\": \"a\", \"supporting_facts\": [], \"context\": [[\"t\", [\"s\"]], [\"t\"]]}]",
       ", element 1: \"context\"[1]: expected a list of 2 or more, found a list"},
      {Format::kHotpotQa,
       "[{\"question\": \"q\", \"answer\": \"a\", \"supporting_facts\": [], \"context\": [[\"t\", [\"s\", null]]]}]",
       ", element 1: \"context\"[0][1][1]: expected a string, found null"},
      {Format::kHotpotQa,
       "{\"question\": \"q\", \"answer\": \"a\", \"supporting_facts\": {\"title\": []}, \"context\": {\"title\": "
       "[\"t\"], \"sentences\": []}}",
       ":1: \"context\".\"title\": expected a title for each of 0 paragraphs"},
      {Format::kNaturalQuestions, "{\"question\": \"q\", \"answers\": [], \"ctxs\": []}",
       ":1: \"answers\": expected at least one, found an empty list"},
      {Format::kNaturalQuestions,
       "{\"question\": \"q\", \"answers\": [\"a\"], \"ctxs\": [{\"title\": \"t\", \"text\": \"x\"}]}",
       ":1: \"ctxs\"[0].\"isgold\": missing, expected true or false"},
      {Format::kTriviaQa, "[{}, 1]", ", element 1: \"question\": missing, expected a string"},
      {Format::kMultiNews, "{\"document\": \" ||||| \", \"summary\": \"s\"}",
       ":1: \"document\": expected an article with text"},
      {Format::kSamsum, "[{\"dialogue\": \"d\"}]", ", element 1: \"summary\": missing, expected a string"},
      {Format::kXsum, "{\"id\": 1.5, \"document\": \"d\", \"summary\": \"s\"}",
       ":1: \"id\": expected a string or an integer, found a number"},
      {Format::kChat, "{\"messages\": [{\"role\": \"tool\", \"content\": \"c\"}]}",
       ":1: \"messages\"[0].\"role\": expected the role system, user or assistant instead of 'tool'"},
      {Format::kChat, "{\"conversations\": [{\"from\": \"User\", \"value\": \"c\"}]}",
       ":1: \"conversations\": expected a turn of the assistant"},
      {Format::kChat, "{\"prompt\": \"c\"}", ":1: \"messages\": missing, expected a list"},
  };
  for (const auto& one : cases) EXPECT_THAT(Refused(one.format, one.bytes), HasSubstr(one.expected));
}

TEST_F(ReaderTest, TheTwoFilesOfMultiNewsHaveALineForEachExample) {
  const std::string summaries = Write("a.tgt", "one\n\nthree\n");
  EXPECT_THAT(Refused(Format::kMultiNews, "x\n", "a.src"), StartsWith(absl::StrCat(": ends before ", summaries, ":2")));
  const std::string articles = Write("a.src", "x\ny\nz\n");
  std::vector<Example> examples;
  const absl::Status status = ReadAll(Format::kMultiNews, articles, {}, &examples);
  EXPECT_EQ(status.message(), absl::StrCat(summaries, ":2: expected a summary"));
}

TEST_F(ReaderTest, NoPrefixOfAnArrayIsTakenForIt) {
  const std::string whole = Bytes(Shape("hotpotqa.json"));
  std::vector<Example> examples;
  ASSERT_TRUE(ReadAll(Format::kHotpotQa, Write("data", whole + " \n"), {}, &examples).ok());
  for (size_t size = 1; size < whole.size(); ++size) {
    const std::string error = Refused(Format::kHotpotQa, whole.substr(0, size));
    EXPECT_THAT(error, HasSubstr("the file ends before the array does")) << size;
  }
  EXPECT_THAT(Refused(Format::kHotpotQa, whole + "]"), HasSubstr("something follows the array"));
  const std::string twice = absl::StrReplaceAll(whole, {{"}, {\"_id\"", "} {\"_id\""}});
  ASSERT_NE(twice, whole);
  EXPECT_THAT(Refused(Format::kHotpotQa, twice), HasSubstr(", element 1: not JSON at byte")) << "no comma";
}

TEST_F(ReaderTest, DamagedExamplesAreSkippedUpToALimit) {
  const std::string good = "{\"text\": \"good\"}";
  const std::string array = absl::StrCat("[", good, ", {\"text\": 3}, ", good, ", {\"text\" \"x\"}, {}, ", good, "]");
  std::string lines = absl::StrReplaceAll(array.substr(1, array.size() - 2), {{", ", "\n"}});
  for (const std::string& path : {Write("a.json", array), Write("a.jsonl", lines)}) {
    for (const int64_t limit : {3, 2, 0}) {
      std::vector<std::string> skipped;
      ReaderOptions options;
      options.max_skipped = limit;
      options.on_skipped = [&](const absl::Status& status) { skipped.emplace_back(status.message()); };
      std::vector<Example> examples;
      const absl::Status status = ReadAll(Format::kText, path, options, &examples);
      EXPECT_THAT(skipped, SizeIs(limit));
      EXPECT_EQ(status.ok(), limit == 3) << status;
      EXPECT_THAT(examples, SizeIs(limit == 0 ? 1 : limit == 2 ? 2 : 3));
      if (limit == 3) {
        EXPECT_THAT(skipped[1], AllOf(StartsWith(path), HasSubstr("4: not JSON at byte")));
      }
    }
  }
}

TEST_F(ReaderTest, LongExamplesAreDamagedAndThoseAfterThemAreNot) {
  const std::string text(5000, 'x');
  ReaderOptions options;
  options.max_example_bytes = 1000;
  options.max_skipped = 1;
  const std::string path = Write("long.json", absl::StrCat("[{\"text\": \"", text, "]\"}, {\"text\": \"short\"}]"));
  std::vector<Example> examples;
  std::string skipped;
  options.on_skipped = [&](const absl::Status& status) { skipped = std::string(status.message()); };
  ASSERT_TRUE(ReadAll(Format::kText, path, options, &examples).ok());
  ASSERT_THAT(examples, SizeIs(1));
  EXPECT_EQ(Of<Text>(examples[0]).text, "short");
  EXPECT_EQ(skipped, absl::StrCat(path, ", element 1: longer than 1000 bytes"));
}

TEST_F(ReaderTest, FilesThatAreNotThereOrNotWhatTheyAreCalled) {
  EXPECT_EQ(Reader::Open(Format::kXsum, "/no/such/file", {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(Reader::Open(Format::kXsum, Write("a.jsonl.gz", "{}"), {}).status().message()),
              HasSubstr("not gzip data"));
  EXPECT_EQ(Reader::Open(Format::kMultiNews, Write("alone.src", "x"), {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(ParseFormat("hotpot").status().message()), HasSubstr("hotpotqa, 2wiki"));
  for (const Format format : AllFormats()) EXPECT_EQ(*ParseFormat(FormatName(format)), format);
}

}  // namespace
}  // namespace kvlink::data
