// Documents encoded inside the wrapper of a link profile, and the linker packet, which reads them.
#include <gmock/gmock.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/integration/cli_workplace.h"
#include "tests/support/safetensors_bytes.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CliWrapperTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    input_ = Write("in.jsonl", Lines(0, 2));
  }
  // A profile with a wrapper of 4 + 3 tokens. Returns its path.
  std::string Profile(const std::string& name, float scale, int64_t hidden = 64) const {
    const auto rows = [&](const std::string& tensor, int64_t count) {
      std::vector<float> values(count * hidden);
      for (size_t i = 0; i < values.size(); ++i)
        values[i] = scale * static_cast<float>(static_cast<int>(i * 7919 % 201) - 100);
      return F32Tensor(tensor, {count, hidden}, values);
    };
    Write(name + ".safetensors", SafetensorsBytes({rows("wrapper_header", 4), rows("wrapper_trailer", 3)}));
    return Write(name + ".json", absl::StrCat(R"({"name":")", name, R"(","wrapper":{"file":")", name,
                                              R"(.safetensors","header":4,"trailer":3}})"));
  }
  Finished Ask(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--max-tokens", "2", "How many grains?"});
    return Run("ask", arguments);
  }
  std::string WrapperOf(const std::string& id) const { return Inspect({"document", id})["wrapper"].get<std::string>(); }

  std::string input_;
};

TEST_F(CliWrapperTest, IngestStoresWrappedEncodingsAndPacketReadsThem) {
  const std::string profile = Profile("wrapped", 0.01f);
  EXPECT_THAT(Run("ingest", {input_, "--profile", profile}).output, HasSubstr("2 added"));
  EXPECT_THAT(Run("ingest", {input_, "--profile", profile}).output, HasSubstr("0 added, 2 already complete"));
  const nlohmann::json document = Inspect({"document", "d1"});
  EXPECT_EQ(document["wrapper"].get<std::string>().size(), 64u);
  EXPECT_EQ(document["parts"][0]["encodings"][0]["tokens"].get<int>(), document["parts"][0]["tokens"].get<int>() + 7);
  EXPECT_THAT(Run("inspect", {"document", "d1"}).output, HasSubstr("wrapper     " + WrapperOf("d1")));

  // It is the default of such a profile.
  const std::vector<std::string> documents = {"--profile", profile, "--doc", "d0", "--doc", "d1"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), documents.begin(), documents.end());
    return Ask(more);
  };
  const Finished packet = with({});
  EXPECT_EQ(packet.status, 0) << packet.errors;
  EXPECT_THAT(packet.errors, AllOf(HasSubstr("encodings: 2 from disk"), Not(HasSubstr("wrapper"))));
  EXPECT_EQ(with({"--linker", "packet"}).output, packet.output);

  // concat reads encodings without wrapper, which the first request makes and stores.
  const Finished concat = with({"--linker", "concat"});
  EXPECT_EQ(concat.status, 0) << concat.errors;
  EXPECT_THAT(concat.errors, AllOf(HasSubstr("encodings: 2 encoded now"), HasSubstr("document 'd0' (and 1 more)"),
                                   HasSubstr(WrapperOf("d0").substr(0, 16)), HasSubstr("the linker concat reads")));
  EXPECT_THAT(with({"--linker", "concat"}).errors, HasSubstr("encodings: 2 from disk"));
  EXPECT_THAT(with({"--linker", "packet"}).errors, HasSubstr("encodings: 2 from disk"));
  EXPECT_THAT(with({"--compare"}).output, HasSubstr("encodings: 2 from disk"));
  EXPECT_THAT(Ask({"--file", input_, "--profile", profile}).errors, HasSubstr("encodings: 2 from disk"));
  ExpectRefused(Ask({"--doc", "d0", "--linker", "packet"}), "ask", {"'untuned' has no wrapper", "concat"});
}

TEST_F(CliWrapperTest, EncodingsInsideAnotherWrapperAreNotUsed) {
  const std::string one = Profile("one", 0.01f), two = Profile("two", 0.02f);
  ASSERT_EQ(Run("ingest", {input_, "--profile", one}).status, 0);
  const std::string of_one = WrapperOf("d0");
  const Finished asked = Ask({"--doc", "d0", "--profile", two});
  EXPECT_EQ(asked.status, 0) << asked.errors;
  EXPECT_THAT(asked.errors,
              AllOf(HasSubstr("encodings: 1 encoded now"), HasSubstr("document 'd0'"),
                    HasSubstr("inside wrapper " + of_one.substr(0, 16)), HasSubstr("kvlink ingest --profile")));
  EXPECT_THAT(Run("ingest", {input_, "--profile", two}).output, AllOf(HasSubstr("2 added"), HasSubstr("2 replaced")));
  EXPECT_NE(WrapperOf("d0"), of_one);
  EXPECT_THAT(Ask({"--doc", "d0", "--profile", two}).errors, HasSubstr("encodings: 1 from disk"));
  EXPECT_THAT(Run("ingest", {input_}).output, HasSubstr("2 replaced"));
  EXPECT_EQ(WrapperOf("d0"), "none");
  EXPECT_THAT(Ask({"--doc", "d0", "--profile", two}).errors, HasSubstr("without a wrapper"));
}

TEST_F(CliWrapperTest, APartLeavesRoomForItsWrapper) {
  std::string text;
  for (int i = 0; i < 200; ++i) absl::StrAppend(&text, "Glass ", i, " holds sand.\n");
  const std::string input = Write("long.txt", text);
  const std::string profile = Profile("wrapped", 0.01f);
  EXPECT_THAT(Run("ingest", {input, "--id", "long", "--profile", profile, "--chunk-tokens", "505"}).output,
              HasSubstr("1 added"));
  ExpectRefused(Run("ingest", {input, "--id", "long", "--profile", profile, "--chunk-tokens", "506"}), "ingest",
                {"--chunk-tokens is 506", "505"});
  EXPECT_GT(Inspect({"document", "long"})["parts"].size(), 1u);
}

TEST_F(CliWrapperTest, AProfileForAnotherModelIsRefused) {
  const std::string profile = Profile("wide", 0.01f, 96);
  const std::pair<std::string, std::vector<std::string>> commands[] = {
      {"ingest", {input_}}, {"ask", {"--file", input_, "Why?"}}, {"eval", {}}};
  for (auto [command, words] : commands) {
    words.insert(words.end(), {"--profile", profile});
    ExpectRefused(Run(command, words), command,
                  {"'wide'", "'wrapper.header'", "wide.safetensors", "[4, 96]", "[4, 64]", "another model"});
  }
  ASSERT_EQ(unlink(Path("wide.safetensors").c_str()), 0);
  ExpectRefused(Run("ingest", {input_, "--profile", profile}), "ingest", {"wide.safetensors", "cannot open"});
}

TEST_F(CliWrapperTest, EvalComparesItWithConcat) {
  TinyModelOptions options;
  options.layers = 2;
  options.context = 4096;  // a token of its tokenizer is about a byte
  model_ = MakeModel("long", options);
  const Finished finished = Run("eval", {"--profile", Profile("wrapped", 0.01f), "--linkers", "concat,packet,full",
                                         "--kinds", "lookup", "--count", "1", "--documents", "2", "--document-tokens",
                                         "50", "--max-tokens", "2", "--threads", "1", "--memory", "64M"});
  EXPECT_EQ(finished.status, 0) << finished.errors;
  EXPECT_THAT(finished.output, AllOf(HasSubstr("concat"), HasSubstr("packet"), HasSubstr("full")));
  EXPECT_THAT(finished.errors, Not(HasSubstr("were not in the store")));
}

}  // namespace
}  // namespace kvlink::testing
