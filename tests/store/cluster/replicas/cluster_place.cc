// Addresses are chosen before the nodes start, so that a restarted node keeps its own. Ids come from the nodes' stores,
// so the first view is published once all have started.
#include "tests/store/cluster/replicas/cluster_place.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/algorithm/container.h"
#include "base/clock.h"
#include "store/embedded/embedded.h"
#include "store/node/ownership.h"

namespace kvlink::testing {
namespace {

using store::cluster::View;

template <typename T>
T Must(absl::StatusOr<T> made, const char* what) {
  if (!made.ok()) {
    std::fprintf(stderr, "no %s: %s\n", what, made.status().ToString().c_str());
    std::abort();
  }
  return *std::move(made);
}

// What the member with this number owns by the test's views. Its id is set before the node gets any request.
class ViewOwnership : public store::node::Ownership {
 public:
  ViewOwnership(std::shared_ptr<const TestViews> views, const std::vector<TestMember>* members, int number)
      : views_(std::move(views)), members_(members), number_(number) {}
  uint64_t epoch() const override { return views_->view()->placement.epoch(); }
  bool Owns(const Identity& identity, uint64_t epoch) const override {
    return views_->Owns(*(*members_)[number_].id, identity, epoch);
  }

 private:
  const std::shared_ptr<const TestViews> views_;
  const std::vector<TestMember>* const members_;
  const int number_;
};

}  // namespace

NodeId NodeIdOf(int number) {
  NodeId id = {};
  id[0] = static_cast<uint8_t>(number / 256);
  id[1] = static_cast<uint8_t>(number % 256);
  id[15] = 1;
  return id;
}

std::shared_ptr<const View> MakeView(uint64_t epoch, int copies, int acknowledged,
                                     const std::vector<TestMember>& members) {
  auto view = std::make_shared<View>();
  view->settings.name = "test";
  view->settings.copies = copies;
  view->settings.acknowledged = acknowledged;
  std::map<NodeId, TestMember> by_id;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].member) by_id[members[i].id.value_or(NodeIdOf(static_cast<int>(i)))] = members[i];
  }
  std::vector<store::cluster::Member> placed;
  for (const auto& [id, member] : by_id) {
    placed.push_back({id, member.zone, 1, member.state});
    view->status.push_back({member.address, "test", std::nullopt});
    if (member.alive) view->status.back().incarnation = 1;
  }
  view->placement = Must(store::cluster::Placement::Compute(epoch, copies, std::move(placed)), "placement");
  return view;
}

void TestViews::Set(std::shared_ptr<const View> view) {
  MutexLock lock(&mutex_);
  views_[view->placement.epoch()] = view;
  view_ = std::move(view);
  changed_.SignalAll();
}

std::shared_ptr<const View> TestViews::view() const {
  MutexLock lock(&mutex_);
  return view_;
}

std::shared_ptr<const View> TestViews::WaitForChange(const std::shared_ptr<const View>& than,
                                                     absl::Time deadline) const {
  MutexLock lock(&mutex_);
  while (view_ == than && changed_.WaitUntil(&mutex_, deadline)) {
  }
  return view_;
}

bool TestViews::Owns(const NodeId& node, const Identity& identity, uint64_t epoch) const {
  std::shared_ptr<const View> view;
  {
    MutexLock lock(&mutex_);
    const auto known = views_.find(epoch);
    if (known == views_.end()) return false;
    view = known->second;
  }
  const auto& members = view->placement.members();
  const auto is_member = [&](uint16_t owner) { return members[owner].node_id == node; };
  return absl::c_any_of(view->placement.CurrentOwners(identity), is_member) ||
         absl::c_any_of(view->placement.NextOwners(identity), is_member);
}

ClusterPlace::ClusterPlace(ClusterPlaceOptions options) : options_(std::move(options)) {
  for (int i = 0; i < options_.nodes; ++i) members_.push_back({.address = UnusedAddress()});
  for (int i = 0; i < options_.nodes; ++i) {
    nodes_.push_back(std::make_unique<TestNode>(Carrier::kUcx, [this, i](store::node::NodeOptions* node) {
      node->control_address = members_[i].address;
      node->engine.dram_bytes = options_.store.dram_bytes;
      node->engine.capacity_bytes = options_.store.capacity_bytes;
      node->engine.segment_bytes = 0;
      node->ownership = std::make_shared<ViewOwnership>(node_views_, &members_, i);
      if (options_.node) options_.node(i, node);
    }));
    members_[i].id = (*nodes_[i])->engine()->id();
  }
  Publish();
  if (!options_.own_catalog) {
    store::EmbeddedOptions catalog;
    catalog.dram_bytes = int64_t{4} << 20;
    catalog.capacity_bytes = int64_t{16} << 20;
    catalog_ = Must(store::OpenEmbedded(catalog_directory_.path() + "/catalog", catalog), "catalog");
  }
  OpenStore();
}

ClusterPlace::~ClusterPlace() {
  store_ = nullptr;
  catalog_ = nullptr;
}

void ClusterPlace::Publish() {
  auto view = MakeView(++epoch_, options_.copies, options_.acknowledged, members_);
  node_views_->Set(view);
  client_views_->Set(std::move(view));
}

void ClusterPlace::OpenStore() {
  store_ = nullptr;
  store::cluster::ReplicatedOptions options;
  options.node.name = "test";
  options.node.carrier = *store::client::ParseCarrier("ucx");
  options.resources.receive_bytes = int64_t{64} << 20;
  options.resources.sending_bytes = int64_t{16} << 20;
  if (options_.client) options_.client(&options);
  if (options_.own_catalog) catalog_ = OpenNode(0);
  store_ = Must(store::cluster::OpenReplicated(client_views_, catalog_, options), "replicated store");
}

std::unique_ptr<store::client::RemoteStore> ClusterPlace::OpenNode(int node) {
  store::client::RemoteOptions options;
  options.address = members_[node].address;
  options.name = "test";
  options.carrier = *store::client::ParseCarrier("ucx");
  options.placement = [this] { return node_views_->view()->placement.epoch(); };
  return Must(store::client::OpenRemote(options), "node");
}

void ClusterPlace::Reopen() {
  CloseStore();
  if (options_.own_catalog) catalog_ = nullptr;
  for (auto& node : nodes_) node->Stop();
  for (auto& node : nodes_) node->Start();
  OpenStore();
}

std::vector<int> ClusterPlace::Owners(const Identity& identity) {
  const auto now = view();
  std::vector<int> owners;
  for (const auto some : {now->placement.NextOwners(identity), now->placement.CurrentOwners(identity)}) {
    for (const uint16_t owner : some) {
      const auto& id = now->placement.members()[owner].node_id;
      const auto member = absl::c_find_if(members_, [&id](const TestMember& one) { return one.id == id; });
      const int number = static_cast<int>(member - members_.begin());
      if (!absl::c_linear_search(owners, number)) owners.push_back(number);
    }
  }
  return owners;
}

store::cluster::NodeReport ClusterPlace::Report(int node) {
  const auto reports = store_->Nodes();
  return *absl::c_find_if(reports, [&](const auto& one) { return one.member.node_id == members_[node].id; });
}

}  // namespace kvlink::testing
