// Shared by tests of the binary: a directory, a tiny model, a store, and shortcuts to run commands on them.
#ifndef KVLINK_TESTS_INTEGRATION_CLI_WORKPLACE_H_
#define KVLINK_TESTS_INTEGRATION_CLI_WORKPLACE_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "nlohmann/json.hpp"
#include "tests/support/subprocess.h"
#include "tests/support/tiny_model.h"

namespace kvlink::testing {

class CliTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  std::string Path(const std::string& name) const { return (root_ / name).string(); }
  std::string Write(const std::string& name, const std::string& bytes) const;
  std::string MakeModel(const std::string& name, const TinyModelOptions& options) const;

  // kvlink COMMAND --store STORE [--model MODEL] ARGUMENTS...
  std::vector<std::string> Command(const std::string& command, const std::vector<std::string>& arguments) const;
  Finished Run(const std::string& command, const std::vector<std::string>& arguments,
               const SubprocessOptions& options = {}) const {
    return RunToEnd(Command(command, arguments), options);
  }
  // The output of inspect --json.
  nlohmann::json Inspect(const std::vector<std::string>& arguments) const;

  // JSON lines for documents "d<begin>" to "d<end - 1>", each some 40 tokens long.
  static std::string Lines(int begin, int end);
  // Opens a named pipe for writing as soon as `process` has opened it for reading.
  static Descriptor AwaitReader(const std::string& pipe, const Subprocess& process);
  // Checks that catalogued documents have their encodings (by a sample). Returns the number of documents.
  int CheckCatalogued() const;

  std::filesystem::path root_;
  std::string model_;
  std::string store_;
};

// Expects a refusal: an exit status for its kind, and exactly one line on standard error that begins with "kvlink
// COMMAND: " and contains each of `parts`.
void ExpectRefused(const Finished& finished, const std::string& command, const std::vector<std::string>& parts);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLI_WORKPLACE_H_
