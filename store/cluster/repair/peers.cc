// Peers are opened and closed without the lock, since either may take as long as the network. Of several requests that
// fail at once, the first decides the rest.
#include "store/cluster/repair/peers.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kMaxRest = absl::Minutes(1);
// Limit of encodings listed for one slot, which are some thousands; stops a peer that lists without end.
constexpr int64_t kMaxListed = int64_t{1} << 18;

class RemotePeer : public RepairPeer {
 public:
  explicit RemotePeer(std::unique_ptr<client::RemoteStore> store) : store_(std::move(store)) {}
  absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) override {
    return store_->SlotDigests(slots);
  }
  absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>& after) override {
    return store_->ListSlot(slot, after);
  }
  absl::StatusOr<std::unique_ptr<client::PartLease>> ReadPart(const SlotEntry& entry, const client::EncodingPart& part,
                                                              absl::Time deadline) override {
    return store_->ReadPart(entry.ns, entry.identity, entry.codec, entry.etag, part, deadline);
  }

 private:
  const std::unique_ptr<client::RemoteStore> store_;
};

}  // namespace

OpenPeer RemotePeers(client::RemoteOptions options) {
  options.map = false;  // parts come over a transport
  // All peers share them, so that a hundred cost no more memory and threads than one.
  if (options.resources == nullptr) {
    options.resources = client::NewClientResources({.receive_bytes = options.receive_bytes,
                                                    .sending_bytes = options.sending_bytes,
                                                    .idle_memory = options.idle_memory,
                                                    .nice = kRepairNice});
  }
  return [options](const NodeId& node, const std::string& address) -> absl::StatusOr<std::shared_ptr<RepairPeer>> {
    client::RemoteOptions of = options;
    of.address = address;
    of.node_id = node;
    KVLINK_ASSIGN_OR_RETURN(auto store, client::OpenRemote(of));
    return std::make_shared<RemotePeer>(std::move(store));
  };
}

absl::StatusOr<std::shared_ptr<RepairPeer>> Peers::Get(const NodeId& node, const std::string& address) {
  {
    MutexLock lock(&mutex_);
    State& state = states_[node];
    if (SteadyNow() < state.not_before) return absl::UnavailableError("waiting to retry after an error");
    if (state.peer != nullptr && state.address == address) return state.peer;
  }
  auto opened = open_(node, address);
  if (!opened.ok()) {
    Failed(node, address, opened.status());
    return opened.status();
  }
  std::shared_ptr<RepairPeer> closed = *opened;  // swapped for the previous one, which is destroyed without the lock
  MutexLock lock(&mutex_);
  State& state = states_[node];
  state.peer.swap(closed);
  state.address = address;
  return *opened;
}

absl::Status Peers::ListSlot(const NodeId& node, const std::string& address, int slot,
                             const std::function<absl::Status(SlotListing*)>& visit) {
  KVLINK_ASSIGN_OR_RETURN(const auto peer, Get(node, address));
  int64_t listed = 0;
  std::optional<SlotEntry> after;
  for (bool more = true; more;) {
    auto listing = peer->ListSlot(slot, after);
    if (!listing.ok()) {
      Failed(node, address, listing.status());
      return listing.status();
    }
    listed += static_cast<int64_t>(listing->encodings.size());
    if (listed > kMaxListed) return absl::UnavailableError("the peer lists more encodings than a slot can hold");
    more = listing->more && !listing->encodings.empty();
    if (more) after = listing->encodings.back();
    KVLINK_RETURN_IF_ERROR(visit(&*listing));
  }
  return absl::OkStatus();
}

void Peers::Worked(const NodeId& node) {
  std::string address;
  {
    MutexLock lock(&mutex_);
    State& state = states_[node];
    state.rest = absl::ZeroDuration();
    if (std::exchange(state.failed, absl::StatusCode::kOk) == absl::StatusCode::kOk) return;
    address = state.address;
  }
  if (report_) report_("repair_peer_back", absl::StrCat(address, ": requests succeed again"));
}

void Peers::Failed(const NodeId& node, const std::string& address, const absl::Status& why) {
  if (MovedEpoch(why).has_value()) return;
  std::shared_ptr<RepairPeer> closed;  // destroyed without the lock
  if (Rest(node, why.code(), &closed) && report_) {
    report_("repair_peer_failed", absl::StrCat(address, ": ", why.ToString()));
  }
}

bool Peers::Rest(const NodeId& node, absl::StatusCode code, std::shared_ptr<RepairPeer>* closed) {
  MutexLock lock(&mutex_);
  State& state = states_[node];
  *closed = std::move(state.peer);
  const bool news = std::exchange(state.failed, code) != code;
  if (SteadyNow() < state.not_before) return news;  // of concurrent requests, the first counts
  state.rest = std::clamp(2 * state.rest, rest_, kMaxRest);
  state.not_before = SteadyNow() + state.rest;
  return news;
}

int64_t Peers::failing() const {
  MutexLock lock(&mutex_);
  return absl::c_count_if(states_, [](const auto& state) { return state.second.failed != absl::StatusCode::kOk; });
}

bool Peers::Rests(const NodeId& node) const {
  MutexLock lock(&mutex_);
  const auto state = states_.find(node);
  return state != states_.end() && SteadyNow() < state->second.not_before;
}

void Peers::Keep(const std::vector<Member>& members) {
  std::map<NodeId, State> gone;  // closed without the lock
  MutexLock lock(&mutex_);
  for (const Member& member : members) {
    auto state = states_.extract(member.node_id);
    if (state.empty()) continue;
    state.mapped().not_before = absl::InfinitePast();
    gone.insert(std::move(state));
  }
  states_.swap(gone);
}

void Peers::CameBack(const NodeId& node) {
  MutexLock lock(&mutex_);
  states_[node].not_before = absl::InfinitePast();
}

void Peers::Began(const NodeId& node, int64_t bytes) {
  MutexLock lock(&mutex_);
  states_[node].asked += bytes;
  states_[node].asked_ever += bytes;
}

void Peers::Ended(const NodeId& node, int64_t bytes) {
  MutexLock lock(&mutex_);
  states_[node].asked -= bytes;
}

std::pair<int64_t, int64_t> Peers::Load(const NodeId& node) const {
  MutexLock lock(&mutex_);
  const auto state = states_.find(node);
  return state == states_.end() ? std::pair<int64_t, int64_t>()
                                : std::pair(state->second.asked, state->second.asked_ever);
}

}  // namespace kvlink::store::cluster
