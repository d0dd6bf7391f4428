#include "tests/integration/cli_workplace.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/support/patience.h"

namespace kvlink::testing {

namespace fs = std::filesystem;

void CliTest::SetUp() {
  root_ = fs::path(::testing::TempDir()) / absl::StrCat("cli_", getpid());
  fs::remove_all(root_);
  fs::create_directories(root_);
  TinyModelOptions options;
  options.layers = 2;
  options.context = 512;
  model_ = MakeModel("model", options);
  store_ = Path("store");
}

void CliTest::TearDown() { fs::remove_all(root_); }

std::string CliTest::Write(const std::string& name, const std::string& bytes) const {
  const fs::path path = root_ / name;
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
  return path.string();
}

std::string CliTest::MakeModel(const std::string& name, const TinyModelOptions& options) const {
  EXPECT_TRUE(WriteTinyModel(Path(name), options).ok());
  return Path(name);
}

std::vector<std::string> CliTest::Command(const std::string& command, const std::vector<std::string>& arguments) const {
  std::vector<std::string> words = {KVLINK_BINARY, command};
  if (command != "plan") words.insert(words.end(), {"--store", store_});
  if (command != "verify") words.insert(words.end(), {"--model", model_});
  if (command == "ingest" || command == "ask") words.insert(words.end(), {"--memory", "64M", "--threads", "1"});
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

nlohmann::json CliTest::Inspect(const std::vector<std::string>& arguments) const {
  std::vector<std::string> words = arguments;
  words.push_back("--json");
  const Finished finished = Run("inspect", words);
  EXPECT_EQ(finished.status, 0) << finished.errors;
  nlohmann::json json = nlohmann::json::parse(finished.output, nullptr, false);
  EXPECT_FALSE(json.is_discarded()) << finished.output;
  return json;
}

std::string CliTest::Lines(int begin, int end) {
  std::string lines;
  for (int i = begin; i < end; ++i) {
    absl::StrAppend(&lines, "{\"id\":\"d", i, "\",\"title\":\"Number ", i, "\",\"text\":\"There are ", i * 7919,
                    " grains of sand in glass ", i, ", and one more in the next.\"}\n");
  }
  return lines;
}

Descriptor CliTest::AwaitReader(const std::string& pipe, const Subprocess& process) {
  // Without O_NONBLOCK a process that ends early would leave the test waiting.
  for (const absl::Time deadline = Patience(); SteadyNow() < deadline; absl::SleepFor(absl::Milliseconds(10))) {
    Descriptor end(open(pipe.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    if (end.get() >= 0) return end;
  }
  ADD_FAILURE() << pipe << " has no reader: " << process.errors();
  return Descriptor();
}

int CliTest::CheckCatalogued() const {
  const nlohmann::json documents = Inspect({"documents", "--limit", "100000"});
  // A sample only, since each inspection starts a process.
  const size_t step = documents.size() / 8 + 1;
  for (size_t i = 0; i < documents.size(); i += step) {
    const nlohmann::json entry = Inspect({"document", documents[i]["id"].get<std::string>()});
    EXPECT_EQ(entry["parts"].size(), 1u) << entry.dump();
    EXPECT_EQ(entry["parts"][0]["encodings"].size(), 1u) << entry.dump();
  }
  return static_cast<int>(documents.size());
}

void ExpectRefused(const Finished& finished, const std::string& command, const std::vector<std::string>& parts) {
  EXPECT_GE(finished.status, 2) << finished.errors;  // usage
  EXPECT_LE(finished.status, 7) << finished.errors;  // no room
  EXPECT_TRUE(absl::StartsWith(finished.errors, absl::StrCat("kvlink ", command, ": "))) << finished.errors;
  EXPECT_EQ(std::count(finished.errors.begin(), finished.errors.end(), '\n'), 1) << finished.errors;
  for (const std::string& part : parts) {
    EXPECT_TRUE(absl::StrContains(finished.errors, part)) << "no '" << part << "' in: " << finished.errors;
  }
}

}  // namespace kvlink::testing
