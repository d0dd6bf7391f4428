// Keeps the encodings of one node in line with its placement: compares each slot that the node owns with the other
// owners, copies what the node lacks, and removes what other members own now. Each node has one. It fills a node that
// joins or lost its disk, repairs replicas that missed a write, and takes over what a draining member holds.
//
// How it works: A pass asks each live peer for the digests of the slots that both own (thousands per message), lists a
// slot only if the digests differ, and reads from the peer every encoding that is missing here or has a smaller etag
// here. Nodes only pull; none sends. So a pass between equal nodes moves some kilobytes, a slot that a node gains moves
// once, and a draining member only serves. A peer that has not seen this node's epoch yet refuses to compare, since it
// still takes pushes for slots that have moved; the slot is then compared again.
//
// Passes over all slots also ask members that do not own a slot: one may have the only copy of an encoding that it
// received as an owner, if it was unreachable when the slot moved. No slot waits for them.
//
// What is copied: each encoding that an owner lists, from the owner of which this node has requested least, verified on
// arrival like any read, and put with kReplaceSmallerEtag. Exceptions:
//   - Nothing that was dropped (rule in drop_memory.h).
//   - If a put would evict (the store or the namespace is at its watermark): only encodings that were used again at the
//     peer since they were stored there (a heat of 2 or more), and at most a sixteenth of the capacity in one pass. The
//     rest counts as done: a full node is complete without it. The copy is as hot here as it was there.
//
// What is removed: encodings of slots that the node has owned neither under the current nor the next placement for
// `keep_unowned`, each once every present owner lists it with the same or a greater etag, and never otherwise. Pinned
// encodings stay.
//
// Further copies (store/cluster/hot.h): if an encoding is hot and this node is one of the further members that should
// hold it, a separate thread copies it from the owners, within the rate, and compares it with theirs from time to time.
// The copy is kept while any node wants it, and for `keep_hot` afterwards. All further copies together take at most an
// eighth of the memory tier. A put that would evict follows the rule above.
//
// Order: slots that the node gains (it is not a current owner) come before those that it already has. A peer that is
// down, frozen or faulty delays only the slots that no other peer can provide; they are retried with growing pauses of
// up to a minute, while other slots proceed. Owners that are not alive are not awaited, unless the node gains a slot of
// which no current owner is alive, or the owner is draining: it leaves once the others have what it holds.
//
// Thread-safety: all methods. Ownership: starts the threads `repair`, `hot-copies` (if `hold` is set) and
// `repair-copy`. Lifetime: engine and views must outlive it.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_REPAIR_H_
#define KVLINK_STORE_CLUSTER_REPAIR_REPAIR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "store/cluster/hot.h"
#include "store/cluster/repair/drop_memory.h"
#include "store/cluster/repair/peers.h"
#include "store/cluster/view.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

// A node's progress with the slots that it owns under the next placement of one epoch.
struct RepairProgress {
  uint64_t epoch = 0;
  int64_t slots = 0, slots_done = 0;  // done: compared with the other owners and filled
  int64_t bytes_left = 0;             // as far as known: what peers have more of the slots that are not done
  int64_t bytes_per_second = 0;       // copied lately
  bool complete() const { return slots_done == slots; }
  bool operator==(const RepairProgress&) const = default;
};

// Counts since the start, except where noted.
struct RepairStatistics {
  int64_t passes = 0;  // over all slots
  int64_t slots_compared = 0, slots_listed = 0;
  int64_t copied = 0, copied_bytes = 0;  // encodings put here
  int64_t failed = 0;                    // copies that are retried
  int64_t left_for_room = 0;             // not copied: it would have evicted others
  int64_t left_as_dropped = 0;           // not copied: the identity was dropped
  int64_t peer_errors = 0;
  int64_t peers_failing = 0;               // now: the latest request to them failed
  int64_t removed = 0, removed_bytes = 0;  // no longer owned here
  int64_t hot_held = 0;                    // now: further copies held
};

struct RepairOptions {
  NodeId self = {};
  OpenPeer open_peer;
  int64_t bytes_per_second = int64_t{256} << 20;  // of copies, and of removals; at least 1
  int copies = 4;                                 // concurrent; 1 to 64
  // A pass over all slots runs at this interval, after each change of the members, and when the node itself counted as
  // dead and is alive again. When another member comes alive, a pass compares with that one only.
  absl::Duration interval = absl::Minutes(10);
  absl::Duration retry = absl::Seconds(1);  // the first pause, and the minimum between two passes
  absl::Duration keep_unowned = absl::Minutes(10);
  // The size of one read: some layers, or some heads of a larger layer. The parts of concurrent copies should take a
  // small fraction of the memory that receives them.
  int64_t part_bytes = int64_t{16} << 20;
  absl::Duration copy_timeout = absl::Minutes(1);  // of a part
  // How often this node looks for hot encodings, and how often it compares each further copy with the owners'.
  absl::Duration hot_look = absl::Seconds(1), hot_compare = absl::Seconds(10);
  absl::Duration keep_hot = absl::Minutes(1);  // a further copy that is no longer wanted
  // Called with the further copies that this node holds, whenever they change; they match the owners'. Called on a
  // thread of the repairer, which it blocks. Empty: this node makes no further copies.
  std::function<void(const std::vector<HotName>&)> hold;
  // Called when the epoch changes, a few times a second during a pass, and at once when all is complete. Called on the
  // repair thread, which it blocks. May be empty. A joining member becomes active when the progress of the present
  // epoch is complete.
  std::function<void(const RepairProgress&)> progress;
  // Receives events for operators, on any thread: "repair_peer_failed", with the reason, when a peer fails in another
  // way than before; "repair_peer_back". May be empty.
  std::function<void(absl::string_view event, absl::string_view what)> report;
};

class Repairer {
 public:
  // Starts nothing. `drops` is DropConsumer::memory() of this node; null if the cluster drops nothing.
  Repairer(engine::Engine* engine, const ViewSource* views, std::shared_ptr<const DropMemory> drops,
           RepairOptions options);
  ~Repairer();  // as Stop
  Repairer(const Repairer&) = delete;
  Repairer& operator=(const Repairer&) = delete;

  // Runs passes until Stop. Call once.
  void Start();
  // Ends work in progress, within the timeout of a request or a copy. Finished copies are durable.
  void Stop();
  // Call when the node has emptied itself: no slot is done any more, and all are compared again.
  void Restart();

  RepairProgress progress() const;
  RepairStatistics statistics() const;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_REPAIR_H_
