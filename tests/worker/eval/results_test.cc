// Results files: what is read back, what is refused, and what an interruption leaves.
#include "worker/eval/results.h"

#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Result Example(const std::string& item, const std::string& linker) {
  Result result{item, "lookup", linker, "first", "q8", "\"Balwin\"\n\xe2\x98\x83"};
  result.exact = 1;
  result.f1 = 0.1 + 0.2;
  result.choice = 0;
  result.divergence = 1e-9;
  result.first_token_seconds = 0.25;
  result.bytes_read = int64_t{1} << 40;
  result.prompt_tokens = 1000;
  result.fresh_tokens = 30;
  result.documents_encoded = 2;
  if (linker == "concat") {
    result.document_tokens = 970;
    result.recomputed_tokens = 16;
    result.cross_entropy = 0.7 + 0.1;
    result.expected_tokens = 12;
  }
  return result;
}

class ResultsTest : public ::testing::Test {
 protected:
  std::string Bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  void Write(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }
  // A file with two results.
  void Fill() const {
    auto results = Results::Open(path_, settings_);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_TRUE((*results)->Append(Example("lookup-0", "concat")).ok());
    ASSERT_TRUE((*results)->Append(Example("lookup-0", "full")).ok());
  }
  absl::Status Refused(const Settings& settings) const {
    const std::string before = Bytes();
    const absl::Status status = Results::Open(path_, settings).status();
    EXPECT_EQ(Bytes(), before) << "a refused file was changed";
    return status;
  }

  testing::ScratchDirectory directory_;
  const std::string path_ = directory_.path() + "/results.jsonl";
  const Settings settings_ = {{"model", "abc"}, {"seed", "7"}};
};

TEST_F(ResultsTest, ResultsAreReadBackExactly) {
  Fill();
  const std::string bytes = Bytes();
  const auto results = Results::Open(path_, settings_);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ((*results)->all().size(), 2u);
  const Result &read = (*results)->all()[0], written = Example("lookup-0", "concat");
  EXPECT_EQ(read.key(), written.key());
  EXPECT_EQ(read.kind, written.kind);
  EXPECT_EQ(read.answer, written.answer);
  EXPECT_EQ(read.exact, written.exact);
  EXPECT_EQ(read.f1, written.f1);
  EXPECT_EQ(read.rouge_l, std::nullopt);
  EXPECT_EQ(read.choice, written.choice);
  EXPECT_EQ(read.divergence, written.divergence);
  EXPECT_EQ(read.first_token_seconds, written.first_token_seconds);
  EXPECT_EQ(read.bytes_read, written.bytes_read);
  EXPECT_EQ(read.prompt_tokens, written.prompt_tokens);
  EXPECT_EQ(read.fresh_tokens, written.fresh_tokens);
  EXPECT_EQ(read.documents_encoded, written.documents_encoded);
  EXPECT_EQ(read.document_tokens, 970);
  EXPECT_EQ(read.recomputed_tokens, 16);
  EXPECT_EQ(read.cross_entropy, written.cross_entropy);
  EXPECT_EQ(read.expected_tokens, 12);
  const Result& old = (*results)->all()[1];
  EXPECT_FALSE(old.document_tokens || old.recomputed_tokens || old.cross_entropy || old.expected_tokens)
      << "of an older build";
  EXPECT_TRUE((*results)->Has({"lookup-0", "full", "first", "q8"}));
  EXPECT_FALSE((*results)->Has({"lookup-0", "full", "first", "q4"}));
  EXPECT_EQ(Bytes(), bytes);
}

TEST_F(ResultsTest, ATornLastLineIsDropped) {
  Fill();
  const std::string whole = Bytes();
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (const size_t size : {last + 1, (last + whole.size()) / 2, whole.size() - 1}) {
    Write(whole.substr(0, size));
    {
      const auto results = Results::Open(path_, settings_);
      ASSERT_TRUE(results.ok()) << results.status();
      EXPECT_EQ((*results)->all().size(), 1u);
      EXPECT_EQ(Bytes(), whole.substr(0, last));
      ASSERT_TRUE((*results)->Append(Example("lookup-0", "full")).ok());
    }
    EXPECT_EQ(Bytes(), whole);
  }
  // Of the head as well.
  Write(whole.substr(0, 5));
  EXPECT_TRUE(Results::Open(path_, settings_).ok());
  EXPECT_EQ(Bytes(), whole.substr(0, whole.find('\n') + 1));
}

TEST_F(ResultsTest, OtherSettingsAreRefusedByName) {
  Fill();
  const absl::Status other = Refused({{"model", "abc"}, {"seed", "8"}});
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other.message(), path_ + ": results of other settings: seed was 7 and is 8; name another file");
  EXPECT_THAT(std::string(Refused({{"model", "abc"}, {"split", "tune"}}).message()),
              AllOf(HasSubstr("seed was 7 and is none"), HasSubstr("split was none and is tune")));
}

TEST_F(ResultsTest, AnythingElseIsRefusedAndNotChanged) {
  for (const char* bytes : {"notes", "notes\n", "{}\n", "{\"kvlink_eval\": 1}\n", "[1]\n"}) {
    Write(bytes);
    EXPECT_EQ(Refused(settings_).code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
}

TEST_F(ResultsTest, DamagedLinesAreNamed) {
  Fill();
  const std::string whole = Bytes();
  const std::string longest = "{\"item\":\"" + std::string((16 << 20) - 11, 'x') + "\"}";
  for (const bool longer : {false, true}) {
    Write(whole + longest + (longer ? " \n" : "\n"));
    const absl::Status refused = Results::Open(path_, settings_).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.message()),
                HasSubstr(absl::StrCat(path_, ":4: ", longer ? "a line is too long" : "\"kind\" is missing")));
  }
  const std::pair<const char*, const char*> cases[] = {
      {"{\"item\":", "{\"item\""},
      {"\"bytes_read\":1099511627776", "\"bytes_read\":\"many\""},
      {"\"bytes_read\":1099511627776", "\"bytes_read\":1099511627777"},
      {"\"fresh_tokens\":30", "\"fresh_tokens\":-1"},
      {"\"fresh_tokens\":30", "\"fresh_tokens\":18446744073709551615"},
      {"\"exact\":1.0", "\"exact\":null"},
      {"\"recomputed_tokens\":16", "\"recomputed_tokens\":null"},
      {"\"linker\":", "\"Linker\":"},
  };
  for (const auto& [from, to] : cases) {
    Write(absl::StrReplaceAll(whole, {{from, to}}));
    ASSERT_NE(Bytes(), whole) << from;
    const absl::Status status = Refused(settings_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_ + ":2: ")) << from;
  }
  Write(absl::StrReplaceAll(whole, {{"\"kvlink_eval\":1", "\"kvlink_eval\":2"}}));
  EXPECT_THAT(std::string(Refused(settings_).message()), HasSubstr("results of format 2"));
}

// Deep enough that whoever visits it by recursion needs more than a stack.
TEST_F(ResultsTest, DeepListsAreRefused) {
  const std::string deep = std::string(500000, '[') + std::string(500000, ']');
  Write(absl::StrCat("{\"kvlink_eval\":1,\"settings\":{\"model\":\"abc\",\"seed\":", deep, "}}\n"));
  EXPECT_EQ(Refused(settings_).message(), path_ +
                                              ": results of other settings: seed was of type array and is 7; name "
                                              "another file");
  Write(absl::StrCat("{\"kvlink_eval\":", deep, ",\"settings\":{}}\n"));
  EXPECT_EQ(Refused(settings_).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ResultsTest, AFileIsOfOneProcessAtATime) {
  const auto first = Results::Open(path_, settings_);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(Results::Open(path_, settings_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Results::Open(directory_.path() + "/no/file", settings_).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace kvlink::eval
