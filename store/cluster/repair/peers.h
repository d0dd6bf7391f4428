// The other nodes, as repair sees them: each is opened when it is first needed, kept while it works, and left alone for
// a while after an error.
//
// Thread-safety: all methods.
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

// One of them. Thread-safety: all methods. Each ends within a timeout of its own.
class RepairPeer {
 public:
  virtual ~RepairPeer() = default;
  // As client::RemoteStore's of these names.
  virtual absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) = 0;
  virtual absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>& after) = 0;
  virtual absl::StatusOr<std::unique_ptr<client::PartLease>> ReadPart(const SlotEntry& entry,
                                                                      const client::EncodingPart& part,
                                                                      absl::Time deadline) = 0;
};

// Errors as client::OpenRemote.
using OpenPeer =
    std::function<absl::StatusOr<std::shared_ptr<RepairPeer>>(const NodeId& node, const std::string& address)>;
// Over the network. `options`: of each but for its address and node id; the key has the right `repair` over all
// namespaces.
OpenPeer RemotePeers(client::RemoteOptions options);

class Peers {
 public:
  using Report = std::function<void(absl::string_view event, absl::string_view what)>;

  // After an error a peer rests for `rest`, then twice as long, up to a minute. `report`, where there is one, is told
  // of an error of another kind than the one before, and of its end: RepairOptions.
  Peers(OpenPeer open, absl::Duration rest, Report report)
      : open_(std::move(open)), rest_(rest), report_(std::move(report)) {}

  // UNAVAILABLE: it rests. Errors of OpenPeer, after which it does.
  absl::StatusOr<std::shared_ptr<RepairPeer>> Get(const NodeId& node, const std::string& address);
  // Calls `visit` for each part of what the peer has of a slot, until it returns an error, which is then the result.
  // Errors of Get, and of the peer, which rests then. UNAVAILABLE: it lists more than a slot has.
  absl::Status ListSlot(const NodeId& node, const std::string& address, int slot,
                        const std::function<absl::Status(SlotListing*)>& visit);
  // It did what it was asked for.
  void Worked(const NodeId& node);
  // It did not, for this reason: it is opened anew, after a rest. Of one that has not heard of the epoch yet
  // (MovedStatus) nothing changes.
  void Failed(const NodeId& node, const std::string& address, const absl::Status& why);
  // The number of peers whose latest request failed.
  int64_t failing() const;
  // Whether it rests.
  bool Rests(const NodeId& node) const;
  // The members have changed: forgets others, and ends all rests.
  void Keep(const std::vector<Member>& members);
  // It is alive again: ends its rest.
  void CameBack(const NodeId& node);

  // Bytes that were asked of it and have not come, and that were ever asked of it.
  void Began(const NodeId& node, int64_t bytes);
  void Ended(const NodeId& node, int64_t bytes);
  std::pair<int64_t, int64_t> Load(const NodeId& node) const;

 private:
  struct State {
    std::shared_ptr<RepairPeer> peer;
    std::string address;
    absl::Duration rest;
    absl::Time not_before = absl::InfinitePast();
    absl::StatusCode failed = absl::StatusCode::kOk;  // of what it was asked last
    int64_t asked = 0, asked_ever = 0;
  };

  // It rests, and `closed` was its connection. Whether the error is of another kind than the one before.
  bool Rest(const NodeId& node, absl::StatusCode code, std::shared_ptr<RepairPeer>* closed);

  const OpenPeer open_;
  const absl::Duration rest_;
  const Report report_;
  mutable Mutex mutex_;
  std::map<NodeId, State> states_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_PEERS_H_
