#include "bench/bench_common.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace kvlink::bench {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Flags> Parse(std::vector<std::string> words) {
  words.insert(words.begin(), "/somewhere/bench_test");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return Flags::Parse(static_cast<int>(argv.size()), argv.data(), "Measures nothing.",
                      {{"rounds", "N", "Rounds (default 3)."}, {"small", "", "Less of it."}});
}

TEST(MedianRatio, IsOfPairs) {
  EXPECT_DOUBLE_EQ(MedianRatio({8, 1, 4}, {10, 2, 5}), 0.8);
  EXPECT_DOUBLE_EQ(MedianRatio({9, 1, 1}, {10, 5, 1}), 0.9);  // that of the medians is 0.2
}

TEST(Flags, AreReadInEveryForm) {
  const auto flags = Parse({"--small", "--rounds", "5", "--json=out.json"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_FALSE(flags->help_wanted());
  EXPECT_TRUE(flags->Has("small"));
  EXPECT_EQ(flags->GetInt("rounds", 3), 5);
  EXPECT_EQ(flags->json(), "out.json");
  EXPECT_EQ(Parse({})->GetInt("rounds", 3), 3);
}

TEST(Flags, HelpSaysWhatIsMeasuredAndEveryFlag) {
  for (const char* word : {"--help", "-h"}) {
    ::testing::internal::CaptureStdout();
    const auto flags = Parse({"--small", word});
    const std::string help = ::testing::internal::GetCapturedStdout();
    ASSERT_TRUE(flags.ok()) << flags.status();
    EXPECT_TRUE(flags->help_wanted());
    EXPECT_THAT(help, HasSubstr("Usage: bench_test [options]\n\nMeasures nothing.\n\nOptions:\n"));
    for (const char* head : {"  --rounds N ", "Rounds (default 3).", "  --small ", "  --json FILE ", "  -h, --help "}) {
      EXPECT_THAT(help, HasSubstr(head));
    }
  }
}

TEST(Flags, MistakesNameTheHelp) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--round", "5"}, "unknown option '--round'; did you mean --rounds? bench_test --help lists the options"},
      {{"5"}, "unexpected argument '5'; see bench_test --help"},
      {{"--small", "5"}, "unexpected argument '5'; see bench_test --help"},
      {{"--rounds"}, "option --rounds needs a value"},
      {{"--rounds", "many"}, "option --rounds: 'many' is not an integer"},
  };
  for (const auto& [words, message] : cases) {
    const absl::Status status = Parse(words).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), message);
  }
}

TEST(Scratch, IsRemovedWithTheObjectAndTakesNothingThatIsThere) {
  std::string path;
  {
    auto made = Scratch::Make("");
    ASSERT_TRUE(made.ok()) << made.status();
    const Scratch scratch = *std::move(made);
    path = scratch.path();
    EXPECT_TRUE(std::filesystem::is_directory(path));
    EXPECT_EQ(Scratch::Make(path).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(std::filesystem::is_directory(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace kvlink::bench
