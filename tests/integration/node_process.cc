#include "tests/integration/node_process.h"

#include <gtest/gtest.h>

#include <csignal>
#include <utility>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/support/address.h"

namespace kvlink::testing {
NodeProcess::NodeProcess(std::string directory, std::vector<std::string> arguments, SubprocessOptions options,
                         std::string binary)
    : directory_(std::move(directory)),
      arguments_(std::move(arguments)),
      options_(std::move(options)),
      binary_(binary.empty() ? KVLINK_BINARY : std::move(binary)),
      control_(UnusedAddress()),
      data_(UnusedAddress()) {}

bool NodeProcess::Start() {
  std::vector<std::string> words = {binary_, "store", "--store", directory_};
  words.insert(words.end(), {"--listen", control_, "--data", data_});
  words.insert(words.end(), {"--memory", "128M"});
  words.insert(words.end(), arguments_.begin(), arguments_.end());
  process_ = std::make_unique<Subprocess>(words, options_);
  const absl::Time deadline = SteadyNow() + absl::Minutes(1);
  while (SteadyNow() < deadline && process_->running()) {
    const std::string output = process_->output();
    // UCX may print messages before it.
    const size_t begin = output.find('{');
    if (begin != std::string::npos && output.find('\n', begin) != std::string::npos) {
      nlohmann::json ready =
          nlohmann::json::parse(output.substr(begin, output.find('\n', begin) - begin), nullptr, false);
      EXPECT_FALSE(ready.is_discarded()) << output;
      if (!ready.is_discarded()) ready_ = std::move(ready);
      return !ready_.is_discarded();
    }
    absl::SleepFor(absl::Milliseconds(2));
  }
  ADD_FAILURE() << "the node does not serve: " << process_->output() << process_->errors();
  return false;
}

void NodeProcess::Kill() {
  process_->Kill();
  process_->Wait();
}

int NodeProcess::Stop() {
  process_->Signal(SIGTERM);
  return process_->Wait();
}

}  // namespace kvlink::testing
