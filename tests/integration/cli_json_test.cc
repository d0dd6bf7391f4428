// --json: one value on standard output, whatever the command, that says what the text says; and kvlink doctor.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "tests/integration/cli_workplace.h"

namespace kvlink::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

class CliJsonTest : public CliTest {
 protected:
  json Parsed(const Finished& finished, int status = 0) const {
    EXPECT_EQ(finished.status, status) << finished.errors;
    json value = json::parse(finished.output, nullptr, false);
    EXPECT_FALSE(value.is_discarded()) << finished.output;
    return value;
  }
  // `store`: of commands that know no model.
  json Store(std::vector<std::string> words, int status = 0) const {
    words.insert(words.begin(), KVLINK_BINARY);
    words.insert(words.end(), {"--store", store_, "--json"});
    return Parsed(RunToEnd(words), status);
  }
};

TEST_F(CliJsonTest, IngestCountsAsItsTextDoes) {
  const std::string input = Write("in.jsonl", Lines(0, 4) + "{\"id\":\"empty\",\"text\":\" \"}\n");
  const json first = Parsed(Run("ingest", {input, "--json"}), 1);
  EXPECT_EQ(first["documents"], 5);
  EXPECT_EQ(first["added"], 4);
  EXPECT_EQ(first["failed"], 1);
  EXPECT_EQ(first["unfinished"], 0);
  EXPECT_GT(first["tokens"], 0);
  EXPECT_GT(first["bytes_written"], 0);
  EXPECT_FALSE(first.contains("pruned"));
  const json pruned =
      Parsed(Run("ingest", {Write("in.jsonl", Lines(1, 4)), "--json", "--quiet", "--prune", "--prune-limit", "50"}));
  EXPECT_EQ(pruned["complete_already"], 3);
  EXPECT_EQ(pruned["pruned"], 1);
}

TEST_F(CliJsonTest, AskAnswersWithWhatItCost) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 2))}).status, 0);
  const Finished text = Run("ask", {"--doc", "d0", "--max-tokens", "3", "why?"});
  const json answer = Parsed(Run("ask", {"--doc", "d0", "--max-tokens", "3", "why?", "--json", "--compare"}));
  EXPECT_EQ(answer["question"], "why?");
  EXPECT_EQ(answer["answer"].get<std::string>() + "\n", text.output);
  EXPECT_EQ(answer["encodings"]["disk"], 1);
  EXPECT_GT(answer["bytes_read"], 0);
  EXPECT_LT(answer["computed_tokens"], answer["prompt_tokens"]);
  EXPECT_EQ(answer["full"]["computed_tokens"], answer["full"]["prompt_tokens"]);

  const std::string questions = Write("questions.jsonl",
                                      "{\"question\":\"why?\",\"documents\":[\"d0\"],\"answer\":\"no such text\"}\n"
                                      "{\"question\":\"who?\",\"documents\":[\"nobody\"]}\n");
  const Finished some = Run("ask", {"--questions", questions, "--max-tokens", "2", "--json"});
  const json all = Parsed(some, 1);
  ASSERT_EQ(all["answers"].size(), 2u);
  EXPECT_EQ(all["answers"][0]["right"], false);
  EXPECT_THAT(all["answers"][1]["error"].get<std::string>(), HasSubstr("nobody"));
  EXPECT_EQ(all["totals"]["answered"], 1);
  EXPECT_EQ(all["totals"]["expected"], 1);
  EXPECT_EQ(all["totals"]["right"], 0);
  ExpectRefused(Run("ask", {"--chat", "--json"}), "ask", {"--chat", "--json"});
}

TEST_F(CliJsonTest, CatalogVerifyAndDelete) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 4))}).status, 0);
  EXPECT_EQ(Store({"catalog", "export", Path("catalog")})["exported"], 4);
  const json intact = Store({"verify"});
  EXPECT_EQ(intact["encodings"], 4);
  EXPECT_EQ(intact["documents"], 4);
  EXPECT_EQ(intact["damaged"].size(), 0u);
  EXPECT_EQ(Store({"catalog", "check"}), (json{{"documents", 4}, {"missing", json::array()}}));
  ExpectRefused(RunToEnd({KVLINK_BINARY, "catalog", "export", "-", "--json", "--store", store_}), "catalog",
                {"--json"});

  const json some = Store({"delete", "d0", "nobody"}, 3);
  EXPECT_EQ(some["documents"], 1);
  EXPECT_EQ(some["namespace"], "default");
  ASSERT_EQ(some["failed"].size(), 1u);
  EXPECT_EQ(some["failed"][0]["id"], "nobody");
  EXPECT_EQ(Store({"delete", "--prefix", "d1"})["documents"], 1);
  const json whole = Store({"delete", "--namespace", "default", "--whole-namespace"});
  EXPECT_EQ(whole["documents"], 2);
  EXPECT_EQ(whole["encodings"], 2);

  const std::string fresh = Path("fresh");
  store_ = fresh;
  EXPECT_EQ(Store({"catalog", "import", Path("catalog")}), (json{{"imported", 4}, {"skipped", 0}}));
  EXPECT_EQ(Store({"catalog", "check"})["missing"], json::array({"d0", "d1", "d2", "d3"}));
  EXPECT_EQ(Store({"verify"})["documents_without_encoding"], 4);
}

TEST_F(CliJsonTest, DamageIsNamed) {
  ASSERT_EQ(Run("ingest", {Write("in.jsonl", Lines(0, 1))}).status, 0);
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(store_) / "segments")) {
    if (!entry.is_regular_file()) continue;
    const int file = open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(file, 0);
    char byte = 0;
    for (off_t at = 65536 + 4096; byte == 0; ++at) {  // after the header and the manifest
      ASSERT_EQ(pread(file, &byte, 1, at), 1);
      const char other = static_cast<char>(byte ^ 0x20);
      if (byte != 0) {
        ASSERT_EQ(pwrite(file, &other, 1, at), 1);
      }
    }
    close(file);
  }
  const json damaged = Store({"verify"}, 6);
  ASSERT_EQ(damaged["damaged"].size(), 1u);
  EXPECT_EQ(damaged["damaged"][0]["documents"], json::array({"d0"}));
  EXPECT_EQ(damaged["documents_without_encoding"], 1);
}

TEST_F(CliJsonTest, PlanHasNames) {
  const json names = Parsed(RunToEnd({KVLINK_BINARY, "plan", "--list", "--json"}));
  ASSERT_TRUE(names.is_array());
  ASSERT_FALSE(names.empty());
  const json plan = Parsed(RunToEnd({KVLINK_BINARY, "plan", names[0], "--json"}));
  EXPECT_EQ(plan["codecs"].size(), 3u);
}

std::map<std::string, json> ByName(const json& report) {
  std::map<std::string, json> findings;
  for (const json& finding : report["findings"]) {
    EXPECT_TRUE(finding["effect"].is_string() && finding["mend"].is_string()) << finding;
    if (finding["health"] != "ok") {
      EXPECT_NE(finding["mend"], "") << finding;
    }
    findings[finding["what"]] = finding;
  }
  return findings;
}

TEST_F(CliJsonTest, DoctorExaminesTheMachine) {
  const json report =
      Parsed(RunToEnd({KVLINK_BINARY, "doctor", "--json", "--store", Path("to/be"), "--model", model_}));
  EXPECT_EQ(report["usable"], true);
  std::map<std::string, json> findings = ByName(report);
  for (const char* what :
       {"processors", "numa_nodes", "memory", "huge_pages", "io_uring", "locked_memory", "open_files", "shared_memory",
        "ucx", "store", "free_space", "direct_io", "flush", "arithmetic", "gpu", "model"}) {
    EXPECT_EQ(findings.count(what), 1u) << what;
    EXPECT_NE(findings[what]["value"], "") << what;
  }
  EXPECT_EQ(findings.size(), 16u);
  EXPECT_FALSE(fs::exists(Path("to"))) << "it makes nothing";
  for (const auto& entry : fs::directory_iterator(root_)) EXPECT_EQ(entry.path().filename(), "model");
  // The text has the same, a line for each.
  const Finished text = RunToEnd({KVLINK_BINARY, "doctor"});
  EXPECT_EQ(text.status, 0) << text.errors;
  EXPECT_EQ(std::count(text.output.begin(), text.output.end(), '\n'), 11);
}

TEST_F(CliJsonTest, DoctorSaysWhatKeepsKvlinkFromWorking) {
  const Finished finished =
      RunToEnd({KVLINK_BINARY, "doctor", "--json", "--store", "/proc/kvlink", "--model", Path("nothing.gguf")});
  const json report = Parsed(finished, 1);
  EXPECT_EQ(report["usable"], false);
  std::map<std::string, json> findings = ByName(report);
  EXPECT_EQ(findings["store"]["health"], "error");
  EXPECT_EQ(findings["model"]["health"], "error");
  EXPECT_THAT(finished.errors, HasSubstr("store, model"));
  ExpectRefused(RunToEnd({KVLINK_BINARY, "doctor", "--store", "127.0.0.1:7400"}), "doctor", {"address of a node"});
  ExpectRefused(RunToEnd({KVLINK_BINARY, "doctor", "me"}), "doctor", {"'me'"});
}

TEST_F(CliJsonTest, DoctorWarnsOfLowLimits) {
  std::map<std::string, json> findings = ByName(Parsed(
      RunToEnd({KVLINK_BINARY, "doctor", "--json"}, {.descriptor_limit = 256, .descriptor_limit_is_hard = true})));
  EXPECT_EQ(findings["open_files"]["health"], "warning");
  EXPECT_EQ(findings["open_files"]["value"], "256");
}

}  // namespace
}  // namespace kvlink::testing
