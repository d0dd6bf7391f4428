// Several nodes in this process, and clients that share their resources and a transport.
//
// Thread-safety: one thread.
#ifndef KVLINK_TESTS_STORE_CLIENT_REMOTE_NODES_H_
#define KVLINK_TESTS_STORE_CLIENT_REMOTE_NODES_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/client/remote.h"
#include "tests/store/client/freezer.h"
#include "tests/store/node/raw_client.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/transport/loopback/loopback.h"

namespace kvlink::testing {

inline absl::Status PutOn(store::client::RemoteStore* store, const Synthetic& one) {
  return store->Put("ns", one.manifest, one.spans(), Patience()).status();
}

// Waits until a counter has this value. False: not in time.
template <typename Counter>
bool Becomes(Counter counter, int64_t value) {
  const absl::Time limit = Patience();
  while (counter() != value && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
  return counter() == value;
}

class RemoteNodes {
 public:
  using Change = std::function<void(store::client::RemoteOptions*)>;

  explicit RemoteNodes(int count, const store::client::ResourceOptions& resources = {},
                       const TestNode::Change& change = {})
      : network_(std::make_shared<Freezer>(*transport::NewLoopbackTransport(loopback_, {}))),
        resources_(store::client::NewClientResources(resources)) {
    for (int i = 0; i < count; ++i) {
      nodes_.push_back(std::make_unique<TestNode>(Carrier::kLoopback, [&](store::node::NodeOptions* options) {
        options->carriers.clear();
        options->carriers.push_back({"loopback", *transport::NewLoopbackTransport(loopback_, {}), "127.0.0.1:0"});
        options->engine.segment_bytes = 0;
        if (change) change(options);
      }));
    }
  }

  int count() const { return static_cast<int>(nodes_.size()); }
  TestNode& node(int i) { return *nodes_[i]; }
  std::string data_address(int i) const { return nodes_[i]->data_address(); }
  Freezer& network() { return *network_; }
  // Drops this object's reference; clients have their own.
  void DropResources() { resources_ = nullptr; }

  store::client::RemoteOptions Options(int i) const {
    store::client::RemoteOptions options;
    options.address = (*nodes_[i])->addresses().control;
    options.name = "test";
    options.resources = resources_;
    options.transport = network_;
    return options;
  }
  // Null, with a test failure, if it does not open.
  std::unique_ptr<store::client::RemoteStore> Open(int i, const Change& change = {}) const {
    store::client::RemoteOptions options = Options(i);
    if (change) change(&options);
    auto store = store::client::OpenRemote(options);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  std::vector<std::unique_ptr<store::client::RemoteStore>> OpenAll(const Change& change = {}) const {
    std::vector<std::unique_ptr<store::client::RemoteStore>> stores;
    for (int i = 0; i < count(); ++i) stores.push_back(Open(i, change));
    return stores;
  }

 private:
  const std::shared_ptr<transport::LoopbackNetwork> loopback_ = transport::NewLoopbackNetwork();
  const std::shared_ptr<Freezer> network_;
  std::shared_ptr<store::client::ClientResources> resources_;
  std::vector<std::unique_ptr<TestNode>> nodes_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLIENT_REMOTE_NODES_H_
