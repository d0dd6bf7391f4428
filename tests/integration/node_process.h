// A `kvlink store` in its own process, which tests start, kill and restart on the same ports.
// Thread-safety: one thread at a time.
#ifndef KVLINK_TESTS_INTEGRATION_NODE_PROCESS_H_
#define KVLINK_TESTS_INTEGRATION_NODE_PROCESS_H_

#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/support/subprocess.h"

namespace kvlink::testing {

class NodeProcess {
 public:
  // `arguments`: additional options of `kvlink store`.
  explicit NodeProcess(std::string directory, std::vector<std::string> arguments = {}, SubprocessOptions options = {});

  // Starts it and waits until it serves. False, with a test failure, if it ends or does not serve within a minute. When
  // restarted, it listens at the same addresses.
  bool Start();
  // kill -9.
  void Kill();
  // SIGTERM; returns its exit status.
  int Stop();
  Subprocess& process() { return *process_; }

  // Its ready message, with "grpc", "ucx", "socket", "metrics".
  const nlohmann::json& ready() const { return ready_; }
  // For --store.
  std::string address() const { return ready_["grpc"]; }

 private:
  const std::string directory_;
  const std::vector<std::string> arguments_;
  const SubprocessOptions options_;
  const std::string control_, data_;  // where it listens
  nlohmann::json ready_;
  std::unique_ptr<Subprocess> process_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_NODE_PROCESS_H_
