// How examples become sequences, and what a mixture draws.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/tiny_model.h"
#include "worker/files/open_tokenizer.h"
#include "worker/files/weights.h"
#include "worker/train/mixture.h"
#include "worker/train/sequence.h"

namespace kvlink::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class Sequences : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = directory_.path() + "/m";
    ASSERT_TRUE(testing::WriteTinyModel(path, {}).ok());
    weights_ = *model::OpenWeights(path);
    tokenizer_ = *model::OpenTokenizer(path);
    chat_ = *model::ChatTemplate::Parse(weights_->chat_template());
    profile_ = *link::LoadLinkProfile("untuned");
  }
  SequenceMaker Maker(const Embeddings& embeddings) const {
    return *SequenceMaker::Create(tokenizer_.get(), chat_.get(), {}, &profile_, weights_->config(), embeddings);
  }
  // Ids beyond the vocabulary as {n}.
  std::string Text(const Sequence& sequence, int64_t begin, int64_t end) const {
    std::string text;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = sequence.tokens[static_cast<size_t>(i)];
      const int64_t extra = id - weights_->config().vocab;
      absl::StrAppend(&text, extra >= 0 ? absl::StrCat("{", extra, "}") : tokenizer_->TokenBytes(id));
    }
    return text;
  }
  std::string All(const Sequence& sequence) const {
    return Text(sequence, 0, static_cast<int64_t>(sequence.tokens.size()));
  }
  std::string Learned(const Sequence& sequence) const {
    std::string text;
    for (const int64_t token : sequence.learned) text += Text(sequence, token, token + 1);
    return text;
  }
  std::vector<std::string> Documents(const Sequence& sequence) const {
    std::vector<std::string> texts;
    for (const auto& [begin, end] : sequence.documents) texts.push_back(Text(sequence, begin, end));
    return texts;
  }

  testing::ScratchDirectory directory_{/*in_memory=*/true};
  std::unique_ptr<model::Weights> weights_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::unique_ptr<model::ChatTemplate> chat_;
  link::LinkProfile profile_;
};

data::Example Question() {
  data::Question question;
  question.documents = {{"Moon", "It is old."}, {"", "Mars <|im_end|> is red."}};
  question.question = "How old?";
  question.answers = {"very", "old"};
  return {"q", "test", question};
}

TEST_F(Sequences, DocumentsStandInTheirWrappersWithLinksBehind) {
  const auto lesson = Maker({2, 3, 2, 1}).Make(Question(), Reading::kLinked, 0, 1000);
  ASSERT_TRUE(lesson.ok() && lesson->has_value()) << lesson.status();
  const Sequence& student = (*lesson)->student;
  EXPECT_EQ(All(student),
            "<|im_start|>user\n"
            "{6}{7}Title: Moon\nIt is old.\n{8}{0}{1}{6}{7}Mars <|im_end|> is red.\n{8}{2}{3}"
            "How old?<|im_end|>\n<|im_start|>assistant\nvery<|im_end|>");
  EXPECT_THAT(Documents(student),
              ElementsAre("{6}{7}Title: Moon\nIt is old.\n{8}", "{6}{7}Mars <|im_end|> is red.\n{8}"));
  EXPECT_EQ(Learned(student), "very<|im_end|>");
  // What ends a turn in the text of a document is text.
  EXPECT_EQ(std::count(student.tokens.begin(), student.tokens.end(), testing::kTinyEnd), 2);
  const Sequence& teacher = (*lesson)->teacher;
  EXPECT_EQ(All(teacher),
            "<|im_start|>user\nTitle: Moon\nIt is old.\nMars <|im_end|> is red.\nHow old?<|im_end|>\n"
            "<|im_start|>assistant\nvery<|im_end|>");
  EXPECT_TRUE(teacher.documents.empty());
  EXPECT_EQ(Learned(teacher), Learned(student));
}

TEST_F(Sequences, WithoutEmbeddingsTheyAreThoseOfConcat) {
  const SequenceMaker maker = Maker({2, 3, 2, 1});
  const auto lesson = maker.Make(Question(), Reading::kLinked, 0, 1000);
  const auto concat = Maker({}).Make(Question(), Reading::kLinked, 0, 1000);
  ASSERT_TRUE(lesson.ok() && lesson->has_value()) << lesson.status();
  ASSERT_TRUE(concat.ok() && concat->has_value()) << concat.status();
  const Sequence plain = maker.WithoutEmbeddings((*lesson)->student);
  EXPECT_EQ(plain.tokens, (*concat)->student.tokens);
  EXPECT_EQ(plain.documents, (*concat)->student.documents);
  EXPECT_EQ(plain.learned, (*concat)->student.learned);
}

TEST_F(Sequences, ReadInFullNothingIsAdded) {
  const auto lesson = Maker({2, 3, 2, 1}).Make(Question(), Reading::kFull, 0, 1000);
  ASSERT_TRUE(lesson.ok() && lesson->has_value()) << lesson.status();
  EXPECT_EQ((*lesson)->student.tokens, (*lesson)->teacher.tokens);
  EXPECT_TRUE((*lesson)->student.documents.empty());
}

TEST_F(Sequences, WhatDoesNotFitIsLeftOut) {
  EXPECT_FALSE(Maker({2, 1, 0, 0}).Make(Question(), Reading::kLinked, 0, 1000)->has_value());  // slots
  EXPECT_FALSE(Maker({}).Make(Question(), Reading::kLinked, 0, 20)->has_value());
  model::ModelConfig narrow = weights_->config();
  narrow.context = 20;  // no request can be longer
  const SequenceMaker maker = *SequenceMaker::Create(tokenizer_.get(), chat_.get(), {}, &profile_, narrow, {});
  EXPECT_FALSE(maker.Make(Question(), Reading::kLinked, 0, 1000)->has_value());
  const auto text = Maker({}).Make({"t", "text", data::Text{"A long text."}}, Reading::kFull, 0, 5);
  ASSERT_TRUE(text.ok() && text->has_value());
  EXPECT_EQ((*text)->student.tokens.size(), 5u);
  EXPECT_EQ((*text)->student.learned.size(), 4u);  // nothing predicts the first
  EXPECT_FALSE(Maker({}).Make({"t", "text", data::Text{""}}, Reading::kFull, 0, 5)->has_value());
}

TEST_F(Sequences, FurtherQuestionsFollowAsRounds) {
  data::Example example = Question();
  std::get<data::Question>(example.task).more = {{"How red?", "", "much"}, {"Where?", "", "here"}};
  const auto one = Maker({}).Make(Question(), Reading::kLinked, 0, 1000);
  const auto all = Maker({}).Make(example, Reading::kLinked, 0, 1000);
  ASSERT_TRUE(one.ok() && one->has_value() && all.ok() && all->has_value()) << all.status();
  const std::string more =
      "\n<|im_start|>user\nHow red?<|im_end|>\n<|im_start|>assistant\nmuch<|im_end|>"
      "\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\nhere<|im_end|>";
  EXPECT_EQ(All((*all)->student), All((*one)->student) + more);
  EXPECT_EQ((*all)->student.documents, (*one)->student.documents);
  EXPECT_EQ(Learned((*all)->student), "very<|im_end|>much<|im_end|>here<|im_end|>");
  EXPECT_EQ(Learned((*all)->teacher), Learned((*all)->student));
}

TEST_F(Sequences, SummariesReadSegments) {
  data::Summary summary{{{"", "abcdefghijkl"}}, "Sum up.", "abc"};
  const auto lesson = Maker({}).Make({"s", "test", summary}, Reading::kLinked, 5, 1000);
  ASSERT_TRUE(lesson.ok() && lesson->has_value()) << lesson.status();
  EXPECT_THAT(Documents((*lesson)->student), ElementsAre("abcde", "fghij", "kl\n"));
}

TEST_F(Sequences, EarlierRoundsOfAChatAreDocuments) {
  using Role = data::Turn::Role;
  const data::Chat chat{{{Role::kSystem, "Be kind."},
                         {Role::kUser, "One?"},
                         {Role::kAssistant, "1"},
                         {Role::kUser, "Two?"},
                         {Role::kAssistant, "2"}}};
  const std::string whole =
      "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>"
      "\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>";
  const auto linked = Maker({}).Make({"c", "chat", chat}, Reading::kLinked, 0, 1000);
  ASSERT_TRUE(linked.ok() && linked->has_value()) << linked.status();
  EXPECT_EQ(All((*linked)->student), whole);
  EXPECT_THAT(Documents((*linked)->student), ElementsAre(whole.substr(0, whole.find("\n<|im_start|>user\nTwo"))));
  EXPECT_EQ(Learned((*linked)->student), "2<|im_end|>");
  const auto full = Maker({}).Make({"c", "chat", chat}, Reading::kFull, 0, 1000);
  ASSERT_TRUE(full.ok() && full->has_value()) << full.status();
  EXPECT_EQ(All((*full)->student), whole);
  EXPECT_EQ(Learned((*full)->student), "1<|im_end|>2<|im_end|>");
}

std::vector<std::string> Draw(ExampleStream& stream, int count) {
  std::vector<std::string> ids;
  for (int i = 0; i < count; ++i) {
    const auto drawn = stream.Next();
    EXPECT_TRUE(drawn.ok()) << drawn.status();
    if (!drawn.ok()) break;
    ids.push_back(absl::StrCat(drawn->example.kind, "/", drawn->example.id));
  }
  return ids;
}

class Mixtures : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, int lines) const {
    const std::string path = directory_.path() + "/" + name;
    std::ofstream file(path);
    for (int i = 0; i < lines; ++i) {
      file << absl::StrCat("{\"id\": \"", i, "\", \"dialogue\": \"A: ", i, "\", \"summary\": \"s\"}\n");
    }
    return path;
  }
  testing::ScratchDirectory directory_{/*in_memory=*/true};
};

TEST_F(Mixtures, AreDrawnByWeightAndContinuedByCounting) {
  Write("s.jsonl", 60);
  const auto mixture = ParseMixture(
      R"({"sources": [{"format": "generated", "weight": 3, "documents": [2, 2], "document_tokens": [50, 50]},
                      {"format": "samsum", "path": "s.jsonl", "document_tokens": 100}]})",
      directory_.path());
  ASSERT_TRUE(mixture.ok()) << mixture.status();
  const auto whole = ExampleStream::Open(&*mixture, 5, false);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const std::vector<std::string> ids = Draw(**whole, 400);
  const auto read =
      std::count_if(ids.begin(), ids.end(), [](const std::string& id) { return id.starts_with("samsum"); });
  EXPECT_GT(read, 70);
  EXPECT_LT(read, 130);
  const auto rest = ExampleStream::Open(&*mixture, 5, false);
  ASSERT_TRUE((*rest)->Skip(300).ok());
  EXPECT_EQ(Draw(**rest, 100), std::vector<std::string>(ids.begin() + 300, ids.end()));
  // Held out: the 50th line, and items of their own.
  const auto held_out = ExampleStream::Open(&*mixture, 5, true);
  const std::set<std::string> learned(ids.begin(), ids.end());
  for (const std::string& id : Draw(**held_out, 40)) {
    EXPECT_FALSE(learned.contains(id)) << id;
    EXPECT_TRUE(id == "samsum/49" || !id.starts_with("samsum")) << id;
  }
}

TEST_F(Mixtures, AnswersMayBeSentences) {
  const auto draw = [](absl::string_view answers) {
    const auto mixture = ParseMixture(
        absl::StrCat(R"({"sources": [{"format": "generated", "kinds": ["lookup"], "answers": ")", answers, R"("}]})"),
        "");
    EXPECT_TRUE(mixture.ok()) << mixture.status();
    auto drawn = (*ExampleStream::Open(&*mixture, 5, false))->Next();
    EXPECT_TRUE(drawn.ok()) << drawn.status();
    return std::get<data::Question>(drawn->example.task);
  };
  const data::Question name = draw("names"), sentence = draw("sentences"), steps = draw("steps");
  EXPECT_THAT(sentence.answers, ElementsAre(absl::StrCat(name.stem, " ", name.answers.front(), ".")));
  EXPECT_THAT(steps.answers, ElementsAre(name.steps));
  EXPECT_FALSE(name.steps.empty());
}

TEST_F(Mixtures, NamesMayBeOfLetters) {
  const auto parse = [](absl::string_view member) {
    const auto mixture = ParseMixture(absl::StrCat(R"({"sources": [{"format": "generated")", member, "}]}"), "");
    EXPECT_TRUE(mixture.ok()) << mixture.status();
    return *mixture;
  };
  const Mixture plain = parse(""), syllables = parse(R"(, "names": "syllables")"),
                letters = parse(R"(, "names": "letters")");
  // A checkpoint of before there was a choice is of the same data.
  EXPECT_EQ(DescribeMixture(syllables), DescribeMixture(plain));
  EXPECT_EQ(DescribeMixture(letters), DescribeMixture(plain) + " letters");
  const auto subject = [](const Mixture& mixture, bool held_out) {
    auto drawn = (*ExampleStream::Open(&mixture, 5, held_out))->Next();
    EXPECT_TRUE(drawn.ok()) << drawn.status();
    return std::get<data::Question>(drawn->example.task).documents[0].title;
  };
  EXPECT_EQ(subject(syllables, false), subject(plain, false));
  EXPECT_NE(subject(letters, false), subject(plain, false));
  EXPECT_NE(subject(letters, true), subject(letters, false));
}

TEST_F(Mixtures, MayAskMoreAboutTheSameDocuments) {
  const auto mixture = ParseMixture(
      R"({"sources": [{"format": "generated", "kinds": ["lookup"], "answers": "sentences", "questions": 4}]})", "");
  ASSERT_TRUE(mixture.ok()) << mixture.status();
  const auto drawn = (*ExampleStream::Open(&*mixture, 5, false))->Next();
  ASSERT_TRUE(drawn.ok()) << drawn.status();
  const auto& question = std::get<data::Question>(drawn->example.task);
  ASSERT_EQ(question.more.size(), 3u);
  for (const data::Question::More& more : question.more) EXPECT_THAT(more.answer, HasSubstr(more.stem + " "));
}

TEST_F(Mixtures, OfThePaperNeedFiles) {
  const std::string path = Write("s.jsonl", 1);
  EXPECT_THAT(PaperMixture({}).status().message(), HasSubstr("--data text:FILE"));
  EXPECT_THAT(PaperMixture({"text:a", "chat:b"}).status().message(), HasSubstr("samsum:FILE"));
  EXPECT_FALSE(PaperMixture({"nothing"}).ok());
  const auto mixture = PaperMixture({"text:a", "chat:b", "samsum:" + path});
  ASSERT_TRUE(mixture.ok()) << mixture.status();
  double total = 0;
  for (const Source& source : mixture->sources) total += source.weight;
  EXPECT_EQ(total, 100);
  EXPECT_EQ(mixture->sources.back().cut, 100);
  // Several files share a share.
  const auto more = PaperMixture({"text:a", "chat:b", "samsum:" + path, "xsum:" + path, "hotpotqa:c", "musique:d"});
  ASSERT_TRUE(more.ok()) << more.status();
  std::map<data::Format, double> weights;
  total = 0;
  for (const Source& source : more->sources) {
    total += source.weight;
    weights[*source.format] += source.weight;
  }
  EXPECT_EQ(total, 100);
  EXPECT_EQ(weights[data::Format::kHotpotQa], 10);
  EXPECT_EQ(weights[data::Format::kMusique], 10);
  EXPECT_EQ(weights[data::Format::kSamsum], 2.5);
  const auto standard = PaperMixture({"text:-", "chat:b", "samsum:" + path});
  ASSERT_TRUE(standard.ok());
  EXPECT_THAT(ExampleStream::Open(&*standard, 1, false).status().message(), HasSubstr("standard input"));
}

TEST_F(Mixtures, RefuseBadMembers) {
  const std::map<std::string, std::string> bad = {
      {"[]", "not a JSON object"},
      {R"({"sources": []})", "not a JSON object"},
      {R"({"sources": [{}]})", "source 1: 'format' is missing"},
      {R"({"sources": [{"format": "samsum"}]})", "'path' is missing"},
      {R"({"sources": [{"format": "generated", "path": "x"}]})", "'path' is no member of a generated source"},
      {R"({"sources": [{"format": "generated", "weight": 0}]})", "'weight'"},
      {R"({"sources": [{"format": "generated", "documents": [3, 2]}]})", "'documents' must be [least, most]"},
      {R"({"sources": [{"format": "generated", "kinds": ["no"]}]})", "'kinds'"},
      {R"({"sources": [{"format": "generated", "reading": "slow"}]})", "'reading'"},
      {R"({"sources": [{"format": "generated", "answers": "long"}]})", "'answers'"},
      {R"({"sources": [{"format": "samsum", "path": "x", "answers": "names"}]})", "'answers' is no member"},
      {R"({"sources": [{"format": "generated", "questions": 0}]})", "'questions' must be a number from 1 to 65"},
      {R"({"sources": [{"format": "generated", "names": "numbers"}]})", "'names' must be"},
      {R"({"sources": [{"format": "samsum", "path": "x", "names": "letters"}]})", "'names' is no member"},
      {R"({"sources": [{"format": "samsum", "path": "x", "document_tokens": 0}]})", "'document_tokens'"},
  };
  for (const auto& [json, message] : bad) {
    EXPECT_THAT(ParseMixture(json, "").status().message(), HasSubstr(message)) << json;
  }
}

TEST_F(Mixtures, AFileWithoutExamplesIsRefused) {
  Write("s.jsonl", 3);
  const auto mixture = ParseMixture(R"({"sources": [{"format": "samsum", "path": "s.jsonl"}]})", directory_.path());
  ASSERT_TRUE(mixture.ok());
  const auto held_out = ExampleStream::Open(&*mixture, 1, true);
  ASSERT_TRUE(held_out.ok());
  EXPECT_THAT((*held_out)->Next().status().message(), HasSubstr("fewer than 50 examples"));
}

}  // namespace
}  // namespace kvlink::train
