// A list of leases of single nodes and, for each layer, the one that verified it. A caller waits for the newest usable
// lease and polls the others. The first caller to find it stuck or broken asks the next owner, while all others keep
// polling the existing leases.
#include "store/cluster/replicas/lease.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kClockSlack = absl::Milliseconds(1);
// How often the leases other than the newest are polled.
constexpr absl::Duration kLook = absl::Milliseconds(20);

// A lease of one node. Counts as a request in progress at the node until its last layer has arrived.
struct Part {
  Part(std::shared_ptr<ClusterNode> from, std::unique_ptr<Lease> over)
      : node(std::move(from)), lease(std::move(over)), progress(node->Progress()), signed_at(SteadyNow()) {
    ++node->under_way();
  }
  ~Part() {
    Arrived();
    lease = nullptr;
  }
  void Arrived() {
    if (!arrived.exchange(true)) --node->under_way();
  }
  const std::shared_ptr<ClusterNode> node;  // destroyed after the lease
  std::unique_ptr<Lease> lease;
  std::atomic<bool> arrived{false};
  std::atomic<bool> gave{false};  // a layer that it verified was given to the caller
  // The node's progress when last looked at, and when it had last changed. Guarded by ReplicatedLease::mutex_.
  int64_t progress;
  absl::Time signed_at;
};

class ReplicatedLease : public Lease {
 public:
  ReplicatedLease(const Cluster* cluster, Wanted wanted, std::shared_ptr<ClusterNode> node,
                  std::unique_ptr<Lease> lease)
      : cluster_(cluster), wanted_(std::move(wanted)) {
    Add(std::move(node), std::move(lease));
    layers_.assign(first_->lease->manifest().layers.size(), nullptr);
  }

  const Manifest& manifest() const override { return first_->lease->manifest(); }
  Tier source() const override { return first_->lease->source(); }
  bool on_device() const override { return first_->lease->on_device(); }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline) override;
  absl::Span<const std::byte> layer(int64_t layer) const override {
    const Part* part = nullptr;
    {
      MutexLock lock(&mutex_);
      part = layers_[layer];
    }
    return part->lease->layer(layer);
  }
  bool intact() const override {
    MutexLock lock(&mutex_);
    return absl::c_all_of(parts_, [](const auto& part) { return !part->gave || part->lease->intact(); });
  }

 private:
  void Add(std::shared_ptr<ClusterNode> node, std::unique_ptr<Lease> lease) {
    MutexLock lock(&mutex_);
    parts_.push_back(std::make_unique<Part>(std::move(node), std::move(lease)));
    if (first_ == nullptr) first_ = parts_.back().get();
    live_.push_back(parts_.back().get());
  }
  absl::Status Give(Part* part, int64_t layer);
  // Whether anything came from the node since the last call: a node that is slow with many requests is not stuck.
  bool GaveSign(Part* part);
  // Whether another caller is asking the next owner; if so, waits for a moment.
  bool OthersChange(absl::Time deadline);
  // Call after `part` failed with `why`, or gave no sign (`why` is OK). Tries another owner if there is one. Returns
  // `why` if no lease is left.
  absl::Status Change(int64_t layer, Part* part, const absl::Status& why, absl::Time deadline);
  // Opens a lease at the next owner that has the encoding in the same kind of memory, unless the layer arrives
  // meanwhile. NOT_FOUND: there is none. DEADLINE_EXCEEDED: not all owners were asked, or had time to answer.
  absl::Status OpenNext(int64_t layer, absl::Time deadline);
  // Null if the node does not have the encoding or does not answer in time, or the layer arrived meanwhile.
  std::unique_ptr<Lease> ReadAt(const std::shared_ptr<ClusterNode>& node, int64_t layer, absl::Duration patience,
                                absl::Time deadline);
  // Whether one of the existing leases has the layer.
  bool Came(int64_t layer) const;

  const Cluster* const cluster_;
  const Wanted wanted_;
  const Part* first_ = nullptr;  // set by the constructor
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<std::unique_ptr<Part>> parts_ ABSL_GUARDED_BY(mutex_);  // all that were opened
  std::vector<Part*> live_ ABSL_GUARDED_BY(mutex_);    // may still bring layers; callers wait for the last
  std::vector<Part*> layers_ ABSL_GUARDED_BY(mutex_);  // which part verified each; null: none yet
  bool opening_ ABSL_GUARDED_BY(mutex_) = false;
  bool nobody_else_ ABSL_GUARDED_BY(mutex_) = false;  // all owners were asked
};

absl::Status ReplicatedLease::Give(Part* part, int64_t layer) {
  if (layer + 1 == static_cast<int64_t>(manifest().layers.size())) part->Arrived();
  MutexLock lock(&mutex_);
  if (layers_[layer] == nullptr) {
    layers_[layer] = part;
    part->gave = true;
  }
  return absl::OkStatus();
}

absl::Status ReplicatedLease::WaitLayer(int64_t layer, absl::Time deadline) {
  if (layer < 0 || layer >= static_cast<int64_t>(manifest().layers.size())) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " of ", manifest().layers.size()));
  }
  absl::Time slow = SteadyNow() + kSlowLayer;
  for (;;) {
    std::vector<Part*> live;
    absl::Time until = deadline;
    bool others = false;
    {
      MutexLock lock(&mutex_);
      // The last lease broke, and the caller that found it is asking the next owner.
      while (live_.empty() && opening_) {
        if (!changed_.WaitUntil(&mutex_, deadline) && live_.empty() && opening_) {
          return absl::DeadlineExceededError("the layer did not arrive in time");
        }
      }
      if (layers_[layer] != nullptr) return absl::OkStatus();
      if (live_.empty()) return absl::UnavailableError("no owner of the encoding can deliver the layer");
      live = live_;
      others = !nobody_else_;
      if (others || live.size() > 1) until = std::min(until, live.back()->signed_at + kNoProgress);
    }
    Part* const part = live.back();
    live.pop_back();
    for (Part* const other : live) {
      if (other->lease->WaitLayer(layer, absl::InfinitePast()).ok()) return Give(other, layer);
    }
    const absl::Time look = live.empty() ? absl::InfiniteFuture() : SteadyNow() + kLook;
    const absl::Status waited = part->lease->WaitLayer(layer, std::min({until, look, others ? slow : until}));
    if (waited.ok()) return Give(part, layer);
    const absl::Time now = SteadyNow() + kClockSlack;
    if (absl::IsDeadlineExceeded(waited) && now < until && (now >= look || now >= slow)) {
      if (now < slow || !others) continue;
      slow = absl::InfiniteFuture();
      if (!cluster_->hedges->TryTake()) continue;
      ++cluster_->counters->hedges;
      KVLINK_RETURN_IF_ERROR(Change(layer, part, absl::OkStatus(), deadline));
    } else if (absl::IsDeadlineExceeded(waited) && now >= until) {
      if (now >= deadline) return waited;
      if (GaveSign(part) || OthersChange(deadline)) continue;
      part->node->Failed(Work::kRead);
      ++cluster_->counters->stuck;
      KVLINK_RETURN_IF_ERROR(Change(layer, part, absl::OkStatus(), deadline));
    } else {
      if (OthersChange(deadline)) continue;
      if (absl::IsUnavailable(waited)) part->node->Failed(Work::kRead);
      KVLINK_RETURN_IF_ERROR(Change(layer, part, waited, deadline));
    }
  }
}

bool ReplicatedLease::GaveSign(Part* part) {
  const int64_t progress = part->node->Progress();
  MutexLock lock(&mutex_);
  if (std::exchange(part->progress, progress) == progress) return false;
  part->signed_at = SteadyNow();
  return true;
}

bool ReplicatedLease::OthersChange(absl::Time deadline) {
  MutexLock lock(&mutex_);
  if (!opening_) return false;
  changed_.WaitUntil(&mutex_, std::min(deadline, SteadyNow() + kLook));
  return true;
}

absl::Status ReplicatedLease::Change(int64_t layer, Part* part, const absl::Status& why, absl::Time deadline) {
  {
    MutexLock lock(&mutex_);
    const auto at = absl::c_find(live_, part);
    // Another caller has changed already, or is doing so.
    if (opening_ || at == live_.end() || part != live_.back()) return absl::OkStatus();
    if (!why.ok()) live_.erase(at);
    if (nobody_else_ && why.ok()) {  // take turns among the stuck ones
      std::rotate(live_.begin(), live_.end() - 1, live_.end());
      live_.back()->signed_at = SteadyNow();
    }
    if (nobody_else_) return live_.empty() ? why : absl::OkStatus();
    opening_ = true;
  }
  const absl::Status opened = OpenNext(layer, deadline);
  MutexLock lock(&mutex_);
  opening_ = false;
  changed_.SignalAll();
  if (opened.ok()) return opened;
  if (absl::IsDeadlineExceeded(opened)) {
    // The next caller finds the lease broken again, and continues from here.
    if (!why.ok()) live_.push_back(part);
    return opened;
  }
  nobody_else_ = true;
  return live_.empty() ? why : absl::OkStatus();
}

absl::Status ReplicatedLease::OpenNext(int64_t layer, absl::Time deadline) {
  const std::shared_ptr<const Nodes> nodes = cluster_->nodes->Now();
  std::minstd_rand random{std::random_device{}()};
  const Owners owners = OrderOfOwners(
      *nodes->view, wanted_.request.identity, cluster_->zone,
      [&](uint16_t member) { return nodes->nodes[member]->condition(Work::kRead); }, &random);
  for (const uint16_t member : owners) {
    const std::shared_ptr<ClusterNode>& node = nodes->nodes[member];
    {
      MutexLock lock(&mutex_);
      if (absl::c_any_of(parts_, [&](const auto& part) { return part->node == node; })) continue;
    }
    if (SteadyNow() >= deadline) break;
    const bool short_time = member != owners.back() || node->Rests(Work::kRead);
    auto lease = ReadAt(node, layer, short_time ? kMissPatience : cluster_->patience, deadline);
    if (lease != nullptr && lease->on_device() == on_device()) {
      Add(node, std::move(lease));
      ++cluster_->counters->changed_owner;
      return absl::OkStatus();
    }
    if (Came(layer)) return absl::OkStatus();
  }
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("the layer did not arrive in time");
  return absl::NotFoundError("no other owner has the encoding");
}

bool ReplicatedLease::Came(int64_t layer) const {
  std::vector<Part*> live;
  {
    MutexLock lock(&mutex_);
    if (layers_[layer] != nullptr) return true;
    live = live_;
  }
  return absl::c_any_of(live,
                        [layer](const Part* part) { return part->lease->WaitLayer(layer, absl::InfinitePast()).ok(); });
}

std::unique_ptr<Lease> ReplicatedLease::ReadAt(const std::shared_ptr<ClusterNode>& node, int64_t layer,
                                               absl::Duration patience, absl::Time deadline) {
  // Resting nodes are asked too, but last, since the lease has no other nodes.
  const Breaker::Probe probe = node->TryProbe(Work::kRead);
  const auto store = node->Store();
  if (!store.ok()) return nullptr;
  const absl::Time asked = SteadyNow(), limit = std::min(deadline, asked + patience);
  ++cluster_->counters->read_requests;
  auto pending = (*store)->AskReads(on_device() ? wanted_.buffer.get() : nullptr, wanted_.ns, wanted_.codec,
                                    {wanted_.request}, limit);
  if (!pending.ok()) return nullptr;
  auto leases = (*pending)->Wait(std::min(limit, asked + kLook));
  while (absl::IsDeadlineExceeded(leases.status()) && SteadyNow() < limit) {
    if (Came(layer)) {
      node->GivenUp(Work::kRead, SteadyNow() - asked);
      return nullptr;
    }
    leases = (*pending)->Wait(std::min(limit, SteadyNow() + kLook));
  }
  const absl::Status status = leases.ok() ? leases->front().status() : leases.status();
  const absl::Duration took = SteadyNow() - asked;
  // A short deadline of the caller is not the node's failure.
  if (!absl::IsDeadlineExceeded(status) || took >= kNoProgress) node->Ended(Work::kRead, status, took);
  return status.ok() ? std::move(leases->front()).value() : nullptr;
}

}  // namespace

std::unique_ptr<Lease> ReplicatedLeaseOver(const Cluster* cluster, Wanted wanted, std::shared_ptr<ClusterNode> node,
                                           std::unique_ptr<Lease> lease) {
  return std::make_unique<ReplicatedLease>(cluster, std::move(wanted), std::move(node), std::move(lease));
}

}  // namespace kvlink::store::cluster
