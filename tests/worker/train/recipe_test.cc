// The recipe of the small model (deploy/recipes/small) with two steps of everything: that it still runs with these
// programs, goes on where it was stopped, and is quiet. What it learns in earnest takes hours.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/seed.h"
#include "tests/support/subprocess.h"
#include "tests_source_dir.h"

namespace kvlink::testing {
namespace {

namespace fs = std::filesystem;

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

const char kRecipe[] = KVLINK_SOURCE_DIR "/deploy/recipes/small/";

class RecipeTest : public ::testing::Test {
 protected:
  Finished Run(const std::string& script, const std::vector<std::string>& arguments) const {
    std::vector<std::string> words = {kRecipe + script};
    words.insert(words.end(), arguments.begin(), arguments.end());
    return RunToEnd(words);
  }
  Finished Smoke(const std::string& script, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {"--smoke", "--out", Path("out"), "--bin", Programs()};
    words.insert(words.end(), more.begin(), more.end());
    return Run(script, words);
  }
  // Where both programs are; a build tree has them in one folder.
  static std::string Programs() { return fs::path(KVLINK_TRAIN_BINARY).parent_path().string(); }
  std::string Path(const std::string& name) const { return directory_.path() + "/" + name; }
  static std::string Bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  // When each model of the run was written.
  std::map<std::string, fs::file_time_type> Models() const {
    std::map<std::string, fs::file_time_type> times;
    for (const char* name :
         {"copy", "facts", "documents", "hops", "base", "links-0", "links-1", "links-5", "mixture"}) {
      const fs::path model = fs::path(Path("out")) / name / "model/model.safetensors";
      if (fs::exists(model)) times[name] = fs::last_write_time(model);
    }
    return times;
  }

  ScratchDirectory directory_;
};

TEST_F(RecipeTest, RunsGoesOnAndIsQuiet) {
  if (!Soak()) GTEST_SKIP() << "a minute of two cores: in `make soak`";
  ASSERT_TRUE(fs::equivalent(Programs(), fs::path(KVLINK_BINARY).parent_path()));
  const Finished whole = Smoke("run.sh");
  ASSERT_EQ(whole.status, 0) << whole.errors;
  EXPECT_THAT(whole.errors, IsEmpty()) << "progress is for terminals";
  EXPECT_THAT(whole.output,
              AllOf(HasSubstr("(`tune`)"), HasSubstr("(`test`)"), HasSubstr("| base | `concat` |"),
                    HasSubstr("| base | `packet` |"), HasSubstr("| tuned, N = 0 | `concat` |"),
                    HasSubstr("| tuned, N = 1 | `links` |"), HasSubstr("| tuned, N = 5 | `packet+links` |"),
                    ContainsRegex("\n. tuned, N = 5 . `packet.links.prophet-5` .*[0-9]\\.[0-9][0-9][0-9] ")));
  const auto models = Models();
  EXPECT_EQ(models.size(), 8u) << "all but that of mixture.sh";

  // Nothing is done twice but the stages that lost their marks, which go on from their checkpoints and results.
  const std::string learned = Bytes(Path("out/links-5/model/model.safetensors"));
  for (const char* name : {"links-5.done", "unseen-1.done"}) EXPECT_TRUE(fs::remove(Path("out/") + name)) << name;
  const Finished again = Smoke("run.sh");
  EXPECT_EQ(again.status, 0) << again.errors;
  EXPECT_EQ(again.output, whole.output);
  auto later = Models();
  EXPECT_GT(later["links-5"], models.at("links-5"));
  later["links-5"] = models.at("links-5");
  EXPECT_EQ(later, models);
  EXPECT_EQ(Bytes(Path("out/links-5/model/model.safetensors")), learned);

  const Finished other = Smoke("run.sh", {"--seed", "2"});
  EXPECT_EQ(other.status, 4);
  EXPECT_THAT(other.errors, HasSubstr("use another --out"));
  EXPECT_THAT(other.output, IsEmpty());

  // Over the same base.
  const Finished mixture = Smoke("mixture.sh");
  ASSERT_EQ(mixture.status, 0) << mixture.errors;
  EXPECT_THAT(mixture.errors, IsEmpty());
  for (const char* name : {"before", "after questions alone", "after the mixture"}) {
    // Perplexity twice, loss twice, EM twice, each but the last with an interval.
    EXPECT_THAT(mixture.output,
                ContainsRegex(std::string("\n. ") + name + " (. [0-9.]+, [0-9.]+\\.\\.[0-9.]+ ){4}(. [0-9.]+ ){2}.\n"));
  }
  later = Models();
  EXPECT_EQ(later.size(), 9u);
  EXPECT_EQ(later["base"], models.at("base"));
}

TEST_F(RecipeTest, AFailedStageIsNamedAndTriedAgain) {
  const std::string blocked = Path("out/lessons");
  fs::create_directories(Path("out"));
  std::ofstream(blocked) << "a file where a folder should be";
  const Finished failed = Smoke("run.sh");
  EXPECT_NE(failed.status, 0);
  EXPECT_THAT(failed.errors, AllOf(HasSubstr("the stage lessons ended with"), HasSubstr("lessons.log")));
  EXPECT_THAT(failed.output, IsEmpty());
  EXPECT_FALSE(fs::exists(Path("out/lessons.done")));
  EXPECT_FALSE(fs::exists(Path("out/copy"))) << "went on after an error";
}

TEST_F(RecipeTest, LessonsAreAFunctionOfTheSeed) {
  const auto write = [&](const std::string& name, const std::string& seed) {
    const Finished finished = Run("lessons.py", {Path(name), "--seed", seed, "--examples", "50"});
    EXPECT_EQ(finished.status, 0) << finished.errors;
    std::map<std::string, std::string> files;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(Path(name))) {
      if (entry.is_regular_file())
        files[fs::relative(entry.path(), Path(name)).string()] = Bytes(entry.path().string());
    }
    return files;
  };
  const auto one = write("a", "1"), same = write("b", "1"), other = write("c", "2");
  EXPECT_EQ(one.size(), 11u);
  EXPECT_EQ(one, same);
  EXPECT_NE(one.at("copy.jsonl"), other.at("copy.jsonl"));
  EXPECT_EQ(one.at("shape/config.json"), other.at("shape/config.json"));
  // What is measured with was never learned from.
  std::ifstream held_out(Path("a/stories-held-out.jsonl"));
  const std::string& learned = one.at("stories.jsonl");
  int lines = 0;
  for (std::string line; std::getline(held_out, line); ++lines) {
    const std::string story = line.substr(10, line.size() - 12);  // without {"text": "..."}
    EXPECT_THAT(learned, Not(HasSubstr(story)));
  }
  EXPECT_EQ(lines, 500);
  std::ifstream held_out_chats(Path("a/chats-held-out.jsonl"));
  for (std::string line; std::getline(held_out_chats, line);) EXPECT_THAT(one.at("chats.jsonl"), Not(HasSubstr(line)));
  EXPECT_NE(Run("lessons.py", {Path("d"), "--examples", "49"}).status, 0);
}

TEST_F(RecipeTest, OptionsAreChecked) {
  for (const char* script : {"run.sh", "mixture.sh"}) {
    const Finished help = Run(script, {"--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_THAT(help.output, AllOf(HasSubstr("--out FOLDER"), HasSubstr("hour"))) << script;
    EXPECT_EQ(Run(script, {"--steps", "3"}).status, 2);
    EXPECT_EQ(Run(script, {"--seed"}).status, 2);
    EXPECT_THAT(Run(script, {"--seed", "x"}).errors, HasSubstr("'x' is not a number"));
    const Finished missing = Run(script, {"--bin", Path("nothing"), "--out", Path("out")});
    EXPECT_EQ(missing.status, 3);
    EXPECT_THAT(missing.errors, HasSubstr(Path("nothing")));
  }
  EXPECT_FALSE(fs::exists(Path("out")));
}

}  // namespace
}  // namespace kvlink::testing
