// Keeps the encodings of one node what its placement says: compares each slot that the node owns with the other owners,
// copies what it lacks, and takes away what others own now. One in each node; fills one that joins or lost its disk,
// brings replicas together after writes that missed one, and takes over what a draining member holds.
//
// How. A pass asks each live peer for the digests of the slots that both own (thousands in a message), lists a slot
// only where the digests differ, and reads from a peer what is not here, or is here with a smaller etag. Who lacks
// something copies it; nobody sends. So a pass of equals moves some kilobytes, a slot that a node gains moves once, and
// a draining member does nothing but serve. A peer that has not heard of this node's epoch yet does not answer, since
// it still takes pushes of slots that have moved; then the slot is compared again.
//
// Members that own nothing of a slot are asked as well, by passes over all slots: one of them may have the only copy of
// what it was given as an owner, and was away when the slot moved. No slot waits for them.
//
// What is copied: each encoding that an owner lists, from the owner of which this node has asked the least, verified on
// arrival as any read, put with kReplaceSmallerEtag. But
//   - nothing that was dropped (drop_memory.h has the rule).
//   - where a put would evict (the store, or the namespace, is at its watermark): only what was used again at the peer
//     since it came (a heat of 2 and more), and of these in one pass no more than a sixteenth of the capacity. The rest
//     counts as done: a full node is complete without it. The copy is as hot here as it was there.
//
// What is removed: encodings of slots that the node has not owned for `keep_unowned`, under the current placement or
// the next, each once every present owner lists it with the same or a greater etag; never otherwise. Pinned ones stay.
//
// Further copies (store/cluster/hot.h): if an encoding is hot and this node is one of the further members that are to
// hold it, a thread of its own copies it from the owners, within the rate, and compares it with theirs from time to
// time. The copy is kept while somebody wants it, and for `keep_hot` afterwards. All further copies together take at
// most an eighth of the memory tier. A put that would evict follows the rule above.
//
// Order: slots that the node gains (it is no current owner) before those it has. A peer that is down, frozen or wrong
// delays the slots that only it can give; they are tried again with growing pauses of up to a minute, while others go
// on. An owner that is not alive is not waited for, unless no current owner of a slot that the node gains is.
//
// Thread-safety: all methods. Ownership: engine and views outlive it.
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

// Where a node stands with the slots that it owns under the next placement of one epoch.
struct RepairProgress {
  uint64_t epoch = 0;
  int64_t slots = 0, slots_done = 0;  // compared with the other owners, and filled
  int64_t bytes_left = 0;             // as far as is known: of what a peer has more in the slots that are not done
  int64_t bytes_per_second = 0;       // copied of late
  bool complete() const { return slots_done == slots; }
  // Infinite: not known.
  absl::Duration time_left() const {
    if (bytes_left == 0) return absl::ZeroDuration();
    return bytes_per_second == 0
               ? absl::InfiniteDuration()
               : absl::Seconds(static_cast<double>(bytes_left) / static_cast<double>(bytes_per_second));
  }
  bool operator==(const RepairProgress&) const = default;
};

// Since it was started.
struct RepairStatistics {
  int64_t passes = 0;  // over all slots
  int64_t slots_compared = 0, slots_listed = 0;
  int64_t copied = 0, copied_bytes = 0;  // encodings put here
  int64_t failed = 0;                    // copies that are tried again
  int64_t left_for_room = 0;             // not copied: something would have had to go
  int64_t left_as_dropped = 0;           // not copied: the identity was dropped
  int64_t peer_errors = 0;
  int64_t peers_failing = 0;               // at present: their latest request failed
  int64_t removed = 0, removed_bytes = 0;  // not owned here any more
  int64_t hot_held = 0;                    // further copies held now
};

struct RepairOptions {
  NodeId self = {};
  OpenPeer open_peer;
  int64_t bytes_per_second = int64_t{256} << 20;  // of copies, and of removals; at least 1
  int copies = 4;                                 // at a time; 1 to 64
  // A pass over all slots runs at this interval, after each change of the members, and when the node itself was taken
  // for dead and is alive again. When another member comes alive, only that one is compared with.
  absl::Duration interval = absl::Minutes(10);
  absl::Duration retry = absl::Seconds(1);  // the first pause; and the least between two passes
  absl::Duration keep_unowned = absl::Minutes(10);
  // What is asked of a peer at a time: layers, or heads of one that is larger. For some copies at a time a small part
  // of the memory that they are received in.
  int64_t part_bytes = int64_t{16} << 20;
  absl::Duration copy_timeout = absl::Minutes(1);  // of a part
  // How often this node looks for hot encodings, and compares each further copy with the owners'.
  absl::Duration hot_look = absl::Seconds(1), hot_compare = absl::Seconds(10);
  absl::Duration keep_hot = absl::Minutes(1);  // a further copy that nobody wants any more
  // Told which further copies this node holds, whenever that changes; they are what the owners have. On a thread of the
  // repairer, which waits meanwhile. Empty: this node makes none.
  std::function<void(const std::vector<HotName>&)> hold;
  // Told when a pass begins under another epoch, some times a second while it goes on, and at once when all is
  // complete. On repair's thread, which waits meanwhile. Empty: nobody. A member that joins becomes active when the
  // progress of the present epoch is complete.
  std::function<void(const RepairProgress&)> progress;
  // Told of what operators want to know, on any thread: "repair_peer_failed" when a peer fails in another way than
  // before, with why; "repair_peer_back". Empty: nobody.
  std::function<void(absl::string_view event, absl::string_view what)> report;
};

class Repairer {
 public:
  // Starts nothing. `drops`: of the node's DropConsumer; null: the cluster drops nothing.
  Repairer(engine::Engine* engine, const ViewSource* views, std::shared_ptr<const DropMemory> drops,
           RepairOptions options);
  ~Repairer();  // as Stop
  Repairer(const Repairer&) = delete;
  Repairer& operator=(const Repairer&) = delete;

  // Runs passes until Stop. Once.
  void Start();
  // Ends what is under way, within the timeout of a request or a copy. What was copied is durable.
  void Stop();
  // The node has emptied itself: from now on no slot is done, and all are compared again.
  void Restart();

  RepairProgress progress() const;
  RepairStatistics statistics() const;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_REPAIR_H_
