// What a node remembers of the drops that it carried out: enough to tell whether a copy from another node, or a push in
// progress, would bring back what was dropped.
//
// Rule of copies, for a peer that had carried out everything up to p when it listed the encoding:
//   - p is of the same log, and not before the oldest drop that is remembered: else nothing is known (kUnknown), until
//     the peer has gone on;
//   - p is not beyond what this node has carried out (kAhead): it follows soon. A log that was restored from an older
//     state is why this matters: a peer that has not noticed yet names positions that mean something else by now;
//   - no drop of the identity, nor of its namespace, that is remembered lies behind p (kDropped): it may have been
//     listed from before that drop.
// A push counts as listed by this node itself when the push began; kDropped and kUnknown refuse it.
//
// The rule is applied when the copy or push commits, under the lock under which drops remove. A drop is remembered
// before its removal takes that lock: either the removal finds the copy, or the copy finds the drop.
//
// Thread-safety: all methods. Ownership: shared by the consumer of the log and by copies on their way.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_DROP_MEMORY_H_
#define KVLINK_STORE_CLUSTER_REPAIR_DROP_MEMORY_H_

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "proto/slots.h"
#include "store/database/drop_log.h"

namespace kvlink::store::cluster {

class DropMemory {
 public:
  enum class Verdict { kAllowed, kDropped, kAhead, kUnknown };

  // At most so many drops, of some 70 bytes each. At first nothing is known.
  explicit DropMemory(int64_t remembered) : remembered_(remembered) {}

  // The node holds nothing that was dropped at or before `position`, and no drop is remembered.
  void Reset(const DropPosition& position);
  // Nothing is known any more, until Reset.
  void Close();
  // Of a batch that ends at `end`; before any of it is carried out.
  void Remember(absl::Span<const database::Drop> drops, const DropPosition& end);
  // It was carried out.
  void Advance(const DropPosition& end);

  // Of a copy listed by a peer at `peer`.
  Verdict Ask(absl::string_view ns, const Identity& identity, const DropPosition& peer) const;
  // Whether to refuse a push that began when the node had carried out everything up to `since`.
  bool DroppedSince(absl::string_view ns, const Identity& identity, const DropPosition& since) const;
  // Whether copies from the peer are worth asking for: false: kUnknown.
  bool Knows(const DropPosition& peer) const;
  // Waits until the peer is not kAhead. False: it is at the deadline.
  bool WaitFor(const DropPosition& peer, absl::Time deadline) const;

 private:
  using Mark = std::array<uint8_t, 16>;  // of an identity in its namespace, or of a namespace
  static Mark MarkOf(absl::string_view ns, const std::optional<Identity>& identity);
  bool KnowsLocked(const DropPosition& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool DroppedLocked(const Mark& mark, const DropPosition& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t remembered_;
  mutable Mutex mutex_;
  mutable CondVar advanced_;
  std::optional<DropPosition> position_ ABSL_GUARDED_BY(mutex_);  // carried out; none: nothing is known
  DropPosition since_ ABSL_GUARDED_BY(mutex_);                    // every drop behind this one is remembered
  std::deque<std::pair<DropPosition, Mark>> order_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Mark, DropPosition> latest_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_DROP_MEMORY_H_
