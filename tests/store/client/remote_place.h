// A node and a client for the tests of store/client: over the loopback, UCX's tcp, gRPC or mapped memory.
#ifndef KVLINK_TESTS_STORE_CLIENT_REMOTE_PLACE_H_
#define KVLINK_TESTS_STORE_CLIENT_REMOTE_PLACE_H_

#include <functional>
#include <memory>
#include <string>

#include "store/client/remote.h"
#include "store/node/node.h"
#include "tests/store/contract.h"
#include "tests/store/node/raw_client.h"
#include "tests/support/address.h"
#include "tests/support/patience.h"
#include "tests/support/transport/faulty/faulty.h"

namespace kvlink::testing {

inline absl::StatusOr<std::unique_ptr<store::Lease>> ReadOf(store::Store* store, const Synthetic& s,
                                                            absl::Time deadline = Patience()) {
  return store->Read("ns", s.manifest.identity, s.manifest.codec, s.manifest.etag, deadline);
}

// Waits for all layers.
inline absl::Status WaitAll(store::Lease* lease, absl::Time deadline = Patience()) {
  for (size_t layer = 0; layer < lease->manifest().layers.size(); ++layer) {
    const absl::Status status = lease->WaitLayer(static_cast<int64_t>(layer), deadline);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

struct RemotePlaceOptions {
  std::string way = "loopback";  // "loopback", "ucx", "grpc", "mapped"
  StorePlaceOptions store;
  std::function<void(store::node::NodeOptions*)> node;        // may change the node's options
  std::function<void(store::client::RemoteOptions*)> client;  // may change the client's
  // Puts a faulty transport in front of each side, initially disabled.
  bool faulty = false;
  transport::FaultOptions faults;
};

// Thread-safety: the store's methods; the rest by one thread.
class RemotePlace : public StorePlace {
 public:
  explicit RemotePlace(RemotePlaceOptions options);
  ~RemotePlace() override;

  store::Store* store() override { return remote_.get(); }
  store::client::RemoteStore* remote() { return remote_.get(); }
  void Reopen() override;
  bool leases_count() const override { return options_.way == "mapped"; }

  // The node restarts at the same address.
  void StopNode() { node_->Stop(); }
  void StartNode() { node_->Start(); }
  void CloseClient();
  void OpenClient();
  store::client::RemoteOptions ClientOptions();
  TestNode& node() { return *node_; }
  // Of the current node and client; null unless options.faulty.
  transport::FaultyTransport* node_faults() { return node_faults_; }
  transport::FaultyTransport* client_faults() { return client_faults_.get(); }
  void EnableFaults(bool on);

 private:
  void Change(store::node::NodeOptions* options);
  std::shared_ptr<transport::Transport> ClientTransport();

  const RemotePlaceOptions options_;
  const ScratchDirectory socket_directory_;
  const std::string control_address_ = UnusedAddress();
  transport::FaultyTransport* node_faults_ = nullptr;
  std::unique_ptr<TestNode> node_;
  std::shared_ptr<transport::FaultyTransport> client_faults_;
  std::unique_ptr<store::client::RemoteStore> remote_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLIENT_REMOTE_PLACE_H_
