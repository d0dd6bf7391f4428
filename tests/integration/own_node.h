// A node in the test's process, for limits and transports that `kvlink store` has no options for.
#ifndef KVLINK_TESTS_INTEGRATION_OWN_NODE_H_
#define KVLINK_TESTS_INTEGRATION_OWN_NODE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "store/node/node.h"

namespace kvlink::testing {

// Options of a node with a small store in `directory`, served over gRPC, UCX and shared memory.
inline store::node::NodeOptions OwnNodeOptions(const std::string& directory) {
  store::node::NodeOptions options;
  options.directory = directory + "/store";
  options.engine.dram_bytes = int64_t{64} << 20;
  options.engine.capacity_bytes = int64_t{1} << 30;
  options.engine.share_memory = true;
  options.data_address = "127.0.0.1:0";
  options.local_socket = directory + "/socket";
  options.log = [](absl::string_view) {};
  return options;
}

// Null, with a test failure, if it does not start.
inline std::unique_ptr<store::node::Node> StartOwnNode(store::node::NodeOptions options) {
  auto node = store::node::Node::Start(std::move(options));
  EXPECT_TRUE(node.ok()) << node.status();
  return node.ok() ? *std::move(node) : nullptr;
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_OWN_NODE_H_
