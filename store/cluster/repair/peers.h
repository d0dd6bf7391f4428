// The other nodes, as repair sees them: each is connected to when first needed, kept while it works, and left to rest
// for a while after an error.
//
// Thread-safety: all methods. Lifetime: callers share the ownership of a RepairPeer.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_PEERS_H_
#define KVLINK_STORE_CLUSTER_REPAIR_PEERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "proto/slots.h"
#include "store/client/remote.h"
#include "store/cluster/placement.h"

namespace kvlink::store::cluster {

// Added to the niceness of threads of repair: a change of the members gives every node tens of thousands of slots to
// compare at once, and bytes to receive and verify that no reader waits for.
inline constexpr int kRepairNice = 10;

// One other node. Thread-safety: all methods. Each returns within a timeout of its own.
class RepairPeer {
 public:
  virtual ~RepairPeer() = default;
  // As the methods of these names in client::RemoteStore.
  virtual absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) = 0;
  virtual absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>& after) = 0;
  virtual absl::StatusOr<std::unique_ptr<client::PartLease>> ReadPart(const SlotEntry& entry,
                                                                      const client::EncodingPart& part,
                                                                      absl::Time deadline) = 0;
};

// Errors of client::OpenRemote.
using OpenPeer =
    std::function<absl::StatusOr<std::shared_ptr<RepairPeer>>(const NodeId& node, const std::string& address)>;
// Opens peers over the network. `options` apply to each of them, except for address and node id; the key needs the
// right `repair` over all namespaces.
OpenPeer RemotePeers(client::RemoteOptions options);

class Peers {
 public:
  using Report = std::function<void(absl::string_view event, absl::string_view what)>;

  // After an error a peer rests for `rest`, then twice as long, up to a minute. `report`, which may be empty, is called
  // when a peer fails with another code than before, and when it works again (RepairOptions).
  Peers(OpenPeer open, absl::Duration rest, Report report)
      : open_(std::move(open)), rest_(rest), report_(std::move(report)) {}

  // Opens the peer if necessary. UNAVAILABLE: it rests. Errors of OpenPeer, after which it rests.
  absl::StatusOr<std::shared_ptr<RepairPeer>> Get(const NodeId& node, const std::string& address);
  // Calls `visit` with each part of the peer's listing of a slot, until it returns an error, which is then the result.
  // Errors of Get, and of the peer, which rests then. UNAVAILABLE: it lists more than a slot can have.
  absl::Status ListSlot(const NodeId& node, const std::string& address, int slot,
                        const std::function<absl::Status(SlotListing*)>& visit);
  // Call when the peer has answered a request.
  void Worked(const NodeId& node);
  // Call when a request failed because of the peer: it rests and is then opened again. Ignores the error of a peer that
  // has not seen the epoch yet (MovedStatus).
  void Failed(const NodeId& node, const std::string& address, const absl::Status& why);
  // The number of peers whose latest request failed.
  int64_t failing() const;
  // Whether the peer rests.
  bool Rests(const NodeId& node) const;
  // Call when the members have changed: forgets all other peers, and ends all rests.
  void Keep(const std::vector<Member>& members);
  // Call when the peer is alive again: ends its rest.
  void CameBack(const NodeId& node);

  // Began and Ended account for bytes requested from the peer; Load returns the bytes in progress, and the bytes ever
  // requested.
  void Began(const NodeId& node, int64_t bytes);
  void Ended(const NodeId& node, int64_t bytes);
  std::pair<int64_t, int64_t> Load(const NodeId& node) const;

 private:
  struct State {
    std::shared_ptr<RepairPeer> peer;
    std::string address;
    absl::Duration rest;
    absl::Time not_before = absl::InfinitePast();
    absl::StatusCode failed = absl::StatusCode::kOk;  // of the latest request
    int64_t asked = 0, asked_ever = 0;
  };

  // Starts a rest and moves the connection to `closed`. Whether the code differs from the previous one.
  bool Rest(const NodeId& node, absl::StatusCode code, std::shared_ptr<RepairPeer>* closed);

  const OpenPeer open_;
  const absl::Duration rest_;
  const Report report_;
  mutable Mutex mutex_;
  std::map<NodeId, State> states_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_PEERS_H_
