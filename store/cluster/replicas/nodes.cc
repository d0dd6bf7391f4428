// A snapshot is made once for each view, and takes over the nodes of the one before whose address is the same: what was
// learnt of them, and their connections, outlive changes of the membership.
#include "store/cluster/replicas/nodes.h"

#include <map>
#include <utility>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kProbeTimeout = absl::Seconds(2);
constexpr int kStuckPuts = 3;
constexpr absl::Duration kStuckPutsAfter = absl::Milliseconds(500);

bool IsNoAnswer(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status);
}

}  // namespace

absl::StatusOr<std::shared_ptr<client::RemoteStore>> ClusterNode::Store() {
  MutexLock lock(&mutex_);
  if (store_ == nullptr) {
    auto opened = client::OpenRemote(options_);
    if (!opened.ok()) return Annotate(opened.status(), address_);
    store_ = *std::move(opened);
  }
  return store_;
}

bool ClusterNode::opened() const {
  MutexLock lock(&mutex_);
  return store_ != nullptr;
}

void ClusterNode::Answered(absl::Duration took) {
  latency_.Add(took);
  breaker_.Answered();
}

void ClusterNode::Failed() { breaker_.Failed(SteadyNow()); }

void ClusterNode::Ended(const absl::Status& status, absl::Duration took) {
  if (IsNoAnswer(status)) return Failed();
  Answered(took);
}

void ClusterNode::PutBegan() {
  MutexLock lock(&mutex_);
  if (puts_++ == 0) puts_moved_ = SteadyNow();
}

void ClusterNode::PutEnded() {
  MutexLock lock(&mutex_);
  --puts_;
  puts_moved_ = SteadyNow();
}

int ClusterNode::puts() const {
  MutexLock lock(&mutex_);
  return puts_;
}

bool ClusterNode::PutsStuck() const {
  MutexLock lock(&mutex_);
  return puts_ >= kStuckPuts && SteadyNow() >= puts_moved_ + kStuckPutsAfter;
}

int64_t ClusterNode::Progress() const {
  std::shared_ptr<client::RemoteStore> store;
  {
    MutexLock lock(&mutex_);
    store = store_;
  }
  if (store == nullptr) return 0;
  const client::RemoteCounters counters = store->Counters();
  return counters.pulls + counters.mapped_leases + counters.verified_bytes + counters.known_bytes;
}

void ClusterNode::Probe(absl::string_view ns, const Identity& identity, Codec codec) {
  MutexLock lock(&probe_mutex_);
  if (probe_ != nullptr) {
    const auto answer = probe_->Wait(absl::InfinitePast());
    if (absl::IsDeadlineExceeded(answer.status()) && SteadyNow() < probed_ + kProbeTimeout) return;
    probe_ = nullptr;
    Ended(answer.status(), SteadyNow() - probed_);
  }
  if (!breaker_.TryProbe(SteadyNow())) return;
  ++probes_;
  const auto store = Store();
  if (!store.ok()) return Failed();
  probed_ = SteadyNow();
  auto asked = (*store)->AskLookup(ns, {identity}, codec, probed_ + kProbeTimeout);
  if (!asked.ok()) return Failed();
  probe_ = *std::move(asked);
}

Condition ClusterNode::condition() const { return {!breaker_.closed(), latency_.mean(), under_way_}; }

NodeSet::NodeSet(std::shared_ptr<ViewSource> source, client::RemoteOptions options)
    : source_(std::move(source)), options_(std::move(options)) {}

NodeSet::~NodeSet() = default;

std::shared_ptr<const Nodes> NodeSet::Now() {
  std::shared_ptr<const View> view = source_->view();
  std::shared_ptr<const Nodes> before;
  MutexLock lock(&mutex_);
  if (now_ != nullptr && now_->view == view) return now_;
  std::map<NodeId, std::shared_ptr<ClusterNode>> known;
  if (now_ != nullptr) {
    for (size_t i = 0; i < now_->nodes.size(); ++i) known[now_->view->placement.members()[i].node_id] = now_->nodes[i];
  }
  auto nodes = std::make_shared<Nodes>();
  for (size_t i = 0; i < view->status.size(); ++i) {
    const std::string& address = view->status[i].address;
    std::shared_ptr<ClusterNode>& node = known[view->placement.members()[i].node_id];
    if (node == nullptr || node->address() != address) {
      client::RemoteOptions options = options_;
      options.address = address;
      options.node_id = view->placement.members()[i].node_id;
      options.placement = [source = source_] { return source->view()->placement.epoch(); };
      nodes->nodes.push_back(std::make_shared<ClusterNode>(address, std::move(options)));
    } else {
      nodes->nodes.push_back(std::move(node));
      node = nullptr;
    }
  }
  nodes->view = std::move(view);
  before = std::exchange(now_, std::move(nodes));
  // Closing waits for the network, which nobody here has to.
  std::vector<std::shared_ptr<ClusterNode>> gone;
  for (auto& [id, node] : known) {
    if (node != nullptr && node->opened()) gone.push_back(std::move(node));
  }
  if (gone.empty()) return now_;
  known.clear();
  if (closing_ == nullptr) closing_ = std::make_unique<Worker>(Worker::Options{.name = "node-close"});
  closing_
      ->AddAdmitted({.work =
                         [gone = std::move(gone), before = std::move(before)](const absl::Status&) mutable {
                           before = nullptr;
                           gone.clear();
                         }})
      .IgnoreError();
  return now_;
}

std::shared_ptr<const Nodes> NodeSet::After(const std::shared_ptr<const Nodes>& than, absl::Time deadline) {
  source_->WaitForChange(than->view, deadline);
  return Now();
}

}  // namespace kvlink::store::cluster
