// A snapshot is made once for each view, and takes over the nodes of the previous one whose address is unchanged, so
// that their connections and records outlive changes of the membership.
#include "store/cluster/replicas/nodes.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kProbeTimeout = absl::Seconds(2);
constexpr int kStuckPuts = 3;

}  // namespace

bool IsNoAnswer(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status);
}

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

void ClusterNode::Failed(Work work, absl::Duration took) {
  const absl::Time now = SteadyNow();
  seen(work).latency.Add(std::max(took, kNoProgress));
  // While lookups rest, a failure of any work confirms that the node is gone.
  if (Rests(Work::kLookup) && work != Work::kLookup) seen(Work::kLookup).breaker.Failed(now);
  seen(work).breaker.Failed(now);
}

void ClusterNode::Ended(Work work, const absl::Status& status, std::optional<absl::Duration> took) {
  if (IsNoAnswer(status)) return Failed(work, took.value_or(kNoProgress));
  // A miss is answered from memory, so it says nothing about the disk.
  if (work == Work::kRead && (absl::IsNotFound(status) || MovedEpoch(status).has_value())) {
    return seen(Work::kLookup).breaker.Answered();
  }
  // Latencies from before the rest no longer apply.
  if (!seen(work).breaker.closed()) seen(work).latency.Forget();
  if (took.has_value()) seen(work).latency.Add(*took);
  seen(work).breaker.Answered();
  seen(Work::kLookup).breaker.Answered();
}

void ClusterNode::GivenUp(Work work, absl::Duration after) {
  if (after > seen(work).latency.mean()) seen(work).latency.Add(after);
}

bool ClusterNode::Rests(Work work) const { return !seen(Resting(work)).breaker.closed(); }

Breaker::Probe ClusterNode::TryProbe(Work work) { return seen(Resting(work)).breaker.TryProbe(SteadyNow()); }

bool ClusterNode::Fails(Work work) const {
  return seen(work).breaker.failures() > 0 || seen(Work::kLookup).breaker.failures() > 0;
}

Condition ClusterNode::condition(Work work) const { return {Rests(work), seen(work).latency.mean(), under_way_}; }

void ClusterNode::PutBegan() {
  MutexLock lock(&mutex_);
  if (puts_++ == 0) puts_moved_ = SteadyNow();
}

void ClusterNode::PutEnded(bool answered) {
  MutexLock lock(&mutex_);
  --puts_;
  if (answered) puts_moved_ = SteadyNow();
}

int ClusterNode::puts() const {
  MutexLock lock(&mutex_);
  return puts_;
}

absl::Time ClusterNode::PutsMoved() {
  const int64_t pushed = Counters().pushed_bytes;
  MutexLock lock(&mutex_);
  if (std::exchange(pushed_bytes_, pushed) != pushed) puts_moved_ = SteadyNow();
  return puts_moved_;
}

bool ClusterNode::PutsStuck() { return puts() >= kStuckPuts && SteadyNow() >= PutsMoved() + kNoPutSign; }

client::RemoteCounters ClusterNode::Counters() const {
  std::shared_ptr<client::RemoteStore> store;
  {
    MutexLock lock(&mutex_);
    store = store_;
  }
  return store == nullptr ? client::RemoteCounters() : store->Counters();
}

int64_t ClusterNode::Progress() const {
  const client::RemoteCounters counters = Counters();
  return counters.answered_reads + counters.verified_bytes + counters.known_bytes;
}

absl::Status ClusterNode::Asked::Poll() const {
  if (lookup != nullptr) return lookup->Wait(absl::InfinitePast()).status();
  const auto leases = reads->Wait(absl::InfinitePast());
  return leases.ok() ? leases->front().status() : leases.status();
}

absl::StatusOr<ClusterNode::Asked> ClusterNode::AskProbe(Work work, absl::string_view ns, const ReadRequest& request,
                                                         Codec codec) {
  KVLINK_ASSIGN_OR_RETURN(const auto store, Store());
  Asked asked{nullptr, work, SteadyNow(), nullptr, nullptr};
  const absl::Time deadline = asked.at + kProbeTimeout;
  if (work == Work::kLookup) {
    KVLINK_ASSIGN_OR_RETURN(asked.lookup, store->AskLookup(ns, {request.identity}, codec, deadline));
  } else {
    KVLINK_ASSIGN_OR_RETURN(asked.reads, store->AskReads(nullptr, ns, codec, {request}, deadline));
  }
  return asked;
}

void ClusterNode::Probe(Work work, absl::string_view ns, const ReadRequest& request, Codec codec) {
  MutexLock lock(&probe_mutex_);
  if (probe_.has_value()) {
    const absl::Status status = probe_->Poll();
    const absl::Duration took = SteadyNow() - probe_->at;
    if (absl::IsDeadlineExceeded(status) && took < kProbeTimeout) return;
    // Without a duration: the answer may have come long before this look.
    Ended(probe_->work, status);
    probe_.reset();
  }
  const Work resting = Resting(work);
  Breaker::Probe right = TryProbe(work);
  if (right == nullptr) return;
  ++probes_;
  auto asked = AskProbe(resting, ns, request, codec);
  if (!asked.ok()) return Failed(resting);
  asked->right = std::move(right);
  probe_ = *std::move(asked);
}

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
  // Close on another thread, since closing waits for the network.
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
  std::shared_ptr<const View> view = than->view;
  while (view->placement.epoch() == than->view->placement.epoch() && SteadyNow() < deadline) {
    view = source_->WaitForChange(view, deadline);
  }
  return Now();
}

}  // namespace kvlink::store::cluster
