// A cluster of nodes in this process, and a replicated store over it; the test decides which nodes are members, and in
// which state.
#ifndef KVLINK_TESTS_STORE_CLUSTER_REPLICAS_CLUSTER_PLACE_H_
#define KVLINK_TESTS_STORE_CLUSTER_REPLICAS_CLUSTER_PLACE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "store/cluster/replicas/replicated.h"
#include "store/cluster/view.h"
#include "store/node/node.h"
#include "tests/store/contract.h"
#include "tests/store/node/raw_client.h"
#include "tests/support/address.h"
#include "tests/support/patience.h"

namespace kvlink::testing {

inline absl::Status Put(store::Store* store, const Synthetic& s, absl::Time deadline = Patience()) {
  return store->Put("ns", s.manifest, s.spans(), deadline).status();
}

// A member of a view.
struct TestMember {
  std::string address;
  std::string zone = "";
  store::cluster::MemberState state = store::cluster::MemberState::kActive;
  bool alive = true;
  bool member = true;
  std::optional<NodeId> id = std::nullopt;  // nullopt: NodeIdOf its number
};

// Ids in the order of their numbers.
NodeId NodeIdOf(int number);
std::shared_ptr<const store::cluster::View> MakeView(uint64_t epoch, int copies, int acknowledged,
                                                     const std::vector<TestMember>& members);

// Thread-safe. Keeps earlier views, by epoch.
class TestViews : public store::cluster::ViewSource {
 public:
  void Set(std::shared_ptr<const store::cluster::View> view);
  std::shared_ptr<const store::cluster::View> view() const override;
  std::shared_ptr<const store::cluster::View> WaitForChange(const std::shared_ptr<const store::cluster::View>& than,
                                                            absl::Time deadline) const override;
  // Whether the node owns the identity under the view of that epoch; false if the view is unknown.
  bool Owns(const NodeId& node, const Identity& identity, uint64_t epoch) const;

 private:
  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::map<uint64_t, std::shared_ptr<const store::cluster::View>> views_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const store::cluster::View> view_ ABSL_GUARDED_BY(mutex_);
};

struct ClusterPlaceOptions {
  int nodes = 3;
  int copies = 2;
  int acknowledged = 2;
  bool own_catalog = false;  // the catalog of node 0
  StorePlaceOptions store;
  std::function<void(int number, store::node::NodeOptions*)> node;
  std::function<void(store::cluster::ReplicatedOptions*)> client;
};

// Thread-safety: the store's methods; the rest: one thread.
class ClusterPlace : public StorePlace {
 public:
  explicit ClusterPlace(ClusterPlaceOptions options);
  ~ClusterPlace() override;

  store::Store* store() override { return store_.get(); }
  store::cluster::ReplicatedStore* replicated() { return store_.get(); }
  void Reopen() override;
  bool leases_count() const override { return false; }

  // A node restarts at the same address. The view does not change.
  void Stop(int node) { nodes_[node]->Stop(); }
  void Start(int node) { nodes_[node]->Start(); }
  void OpenStore();
  void CloseStore() { store_ = nullptr; }
  // The store over a single node.
  std::unique_ptr<store::client::RemoteStore> OpenNode(int node);
  TestNode& node(int number) { return *nodes_[number]; }

  // The members of the next view: change them and call Publish.
  std::vector<TestMember>& members() { return members_; }
  // Publishes the next epoch to nodes and clients.
  void Publish();
  // The views of the nodes, and of the client.
  TestViews& node_views() { return *node_views_; }
  TestViews& client_views() { return *client_views_; }
  std::shared_ptr<const store::cluster::View> view() { return client_views_->view(); }
  // Numbers of the nodes that own the identity under the next placement, or otherwise the current one.
  std::vector<int> Owners(const Identity& identity);
  // The client's report on that node. REQUIRES: it is a member.
  store::cluster::NodeReport Report(int node);

 private:
  const ClusterPlaceOptions options_;
  const std::shared_ptr<TestViews> node_views_ = std::make_shared<TestViews>();
  const std::shared_ptr<TestViews> client_views_ = std::make_shared<TestViews>();
  const ScratchDirectory catalog_directory_{/*in_memory=*/true};
  std::shared_ptr<store::Store> catalog_;
  std::vector<TestMember> members_;
  std::vector<std::unique_ptr<TestNode>> nodes_;
  uint64_t epoch_ = 0;
  std::unique_ptr<store::cluster::ReplicatedStore> store_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLUSTER_REPLICAS_CLUSTER_PLACE_H_
