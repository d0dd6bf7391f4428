// Keeps the encodings of one node what its placement says: compares each slot that the node owns with the other owners,
// copies what it lacks, and takes away what others own now. One in each node; fills one that joins or lost its disk,
// brings replicas together after writes that missed one, and hands over what a draining member holds.
//
// How. A pass asks each live peer for the digests of the slots that both own (thousands in a message), lists a slot
// only where the digests differ, and reads from a peer what is not here, or is here with a smaller etag. Who lacks
// something copies it; nobody sends. So a pass of equals moves a few kilobytes, a slot that a node gains moves once,
// and a draining member does nothing but serve.
//
// What is copied. Each encoding that an owner lists, verified on arrival as any read, put with kReplaceSmallerEtag. But
//   - nothing that was dropped. A node that has consumed the drop of an identity does not take it from a peer that has
//     not: every listing carries how far its node has consumed the log, and what this node knows to be dropped behind
//     that position is left out. Nor is anything taken from a peer that is further than this node, or behind what this
//     node remembers of the log, until they meet. It is asked when the copy commits, under the lock by which drops
//     remove, so that no interleaving brings a dropped identity back (drops.h).
//   - where a put would evict (the store is at its watermark, the namespace at its limit): only what is hotter at the
//     peer than what would go here, taken as having been used again since it came (heat of 2 and more). The rest counts
//     as done: a full node is complete without it.
//
// What is removed. Encodings of slots that the node has owned under no placement for `keep_unowned`, each once every
// present owner lists it with the same or a greater etag; never otherwise. Pinned ones stay.
//
// Order: slots that the node gains (it is no current owner) before those it has. A peer that is down, frozen or wrong
// delays the slots that only it could give; they are tried again, with growing pauses of up to a minute, while others
// go on.
//
// Thread-safety: all methods. Ownership: engine, views and drops outlive it.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_REPAIR_H_
#define KVLINK_STORE_CLUSTER_REPAIR_REPAIR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/client/remote.h"
#include "store/cluster/repair/drops.h"
#include "store/cluster/view.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

// Another node, as repair sees it. Thread-safety: all methods.
class RepairPeer {
 public:
  virtual ~RepairPeer() = default;
  // As client::RemoteStore's of these names.
  virtual absl::StatusOr<client::SlotDigests> Digests(absl::Span<const uint16_t> slots) = 0;
  virtual absl::StatusOr<client::SlotListing> List(int slot, const std::optional<SlotEntry>& after) = 0;
  virtual absl::StatusOr<std::unique_ptr<Lease>> Read(const SlotEntry& entry, absl::Time deadline) = 0;
};
// Opens a peer, at its address of now; kept while it works, opened again after an error. UNAVAILABLE, as OpenRemote.
using OpenPeer =
    std::function<absl::StatusOr<std::shared_ptr<RepairPeer>>(const NodeId& node, const std::string& address)>;
// Peers over the network. `options`: of each, but for its address; the key has the right `repair`.
OpenPeer RemotePeers(client::RemoteOptions options);

// Where a node stands with the slots that it owns under the next placement of one epoch.
struct RepairProgress {
  uint64_t epoch = 0;
  int64_t slots = 0, slots_done = 0;  // compared with the other owners, and filled
  int64_t bytes_left = 0;             // as far as is known: of what the peers hold more of the slots that are not done
  absl::Duration time_left;           // at the rate of late; infinite: not known
  bool complete() const { return slots_done == slots; }
};

// Since it was started.
struct RepairStatistics {
  int64_t passes = 0;  // that came to their end
  int64_t slots_compared = 0, slots_listed = 0;
  int64_t copied = 0, copied_bytes = 0;  // encodings put here
  int64_t replaced = 0;                  // of these, over a smaller etag
  int64_t failed = 0;                    // copies that will be tried again
  int64_t left_for_room = 0;             // not copied, since something would have had to go
  int64_t left_as_dropped = 0;           // not copied, since the identity was dropped
  int64_t peer_errors = 0;
  int64_t removed = 0, removed_bytes = 0;  // not owned here any more
};

struct RepairOptions {
  NodeId self = {};
  OpenPeer open_peer;
  int64_t bytes_per_second = int64_t{256} << 20;  // of copies, and of removals. At least 1
  int copies = 4;                                 // at a time; 1 to 64
  // A pass runs at this interval, after each change of the view and after Ask.
  absl::Duration interval = absl::Hours(1);
  absl::Duration keep_unowned = absl::Minutes(10);
  absl::Duration copy_timeout = absl::Minutes(1);  // of one encoding
  // Told of each change, at most some times a second, and of completion at once. On repair's thread, which waits.
  std::function<void(const RepairProgress&)> progress;
};

class Repairer {
 public:
  // Starts nothing. `drops` may be null: nothing is ever dropped.
  Repairer(engine::Engine* engine, const ViewSource* views, const DropConsumer* drops, RepairOptions options);
  ~Repairer();  // as Stop
  Repairer(const Repairer&) = delete;
  Repairer& operator=(const Repairer&) = delete;

  // Runs passes until Stop. Once.
  void Start();
  // Ends what is under way, within the timeouts of a request. Nothing is left behind: what was copied is durable.
  void Stop();
  // Asks for a pass soon: a push missed a copy.
  void Ask();

  RepairProgress progress() const;
  RepairStatistics statistics() const;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_REPAIR_H_
