// A fixture with one node over the loopback, to which the test opens sessions and connections itself.
// Thread-safety: one thread.
#ifndef KVLINK_TESTS_STORE_NODE_ONE_NODE_H_
#define KVLINK_TESTS_STORE_NODE_ONE_NODE_H_

#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tests/store/node/raw_client.h"

namespace kvlink::testing {

class OneNodeTest : public ::testing::Test {
 protected:
  void StartNode(const TestNode::Change& change = {}) {
    node_ = std::make_unique<TestNode>(Carrier::kLoopback, change);
    transport_ = node_->NewClientTransport();
    control_ = std::make_unique<RawControl>((*node_)->addresses().control);
  }
  // A connection of a new session.
  std::unique_ptr<RawData> Connect(const std::string& key = "") {
    const auto session = control_->Open(key);
    EXPECT_TRUE(session.ok()) << session.status();
    return ConnectAs(control_->token());
  }
  std::unique_ptr<RawData> ConnectAs(const std::string& token) {
    auto data = std::make_unique<RawData>(transport_.get(), node_->data_address());
    const absl::Status hello = data->Hello(token);
    EXPECT_TRUE(hello.ok()) << hello;
    return data;
  }

  std::unique_ptr<TestNode> node_;
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<RawControl> control_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_NODE_ONE_NODE_H_
