// Remembers the latest drops that a node carried out, to tell whether a copy from another node, or a push in progress,
// would bring back a dropped identity.
//
// A copy is allowed if all of the following hold for p, the position up to which the peer had carried out the log when
// it listed the encoding:
//   - p belongs to the same log and is not before the oldest remembered drop; else nothing is known (kUnknown), until
//     the peer has advanced;
//   - p is not ahead of this node's position (kAhead), which soon follows. This matters after a log was restored from
//     an older state: the positions of a peer that has not noticed yet mean something else by now;
//   - no remembered drop of the identity or its namespace lies after p (kDropped): the peer may have listed the
//     encoding before carrying out that drop.
//
// A push counts as listed by this node itself when the push began, and only kAllowed admits it: one that is ahead began
// before the node found that the log was restored from an older state.
//
// The rule is applied when the copy or push commits, under the lock under which drops remove. A drop is remembered
// before its removal takes that lock: either the removal finds the copy, or the copy finds the drop.
//
// Thread-safety: all methods. Ownership: shared by the consumer of the log and copies in progress.
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

  // Remembers at most `remembered` drops, some 70 bytes each. At first nothing is known.
  explicit DropMemory(int64_t remembered) : remembered_(remembered) {}

  // Forgets all drops. The node holds nothing that was dropped at or before `position`.
  void Reset(const DropPosition& position);
  // From now on nothing is known, until Reset.
  void Close();
  // Remembers a batch of drops that ends at `end`. Call before carrying out any of it.
  void Remember(absl::Span<const database::Drop> drops, const DropPosition& end);
  // Call when the batch that ends at `end` was carried out.
  void Advance(const DropPosition& end);

  // The verdict on a copy from a peer that listed it at position `peer`.
  Verdict Ask(absl::string_view ns, const Identity& identity, const DropPosition& peer) const;
  // Whether to refuse a push that began when the node had carried out everything up to `since`.
  bool DroppedSince(absl::string_view ns, const Identity& identity, const DropPosition& since) const;
  // Whether copies from a peer at position `peer` can be allowed; false if all of them are kUnknown.
  bool Knows(const DropPosition& peer) const;
  // Waits until this node has carried out the drops up to `peer`. False if it has not by the deadline.
  bool WaitFor(const DropPosition& peer, absl::Time deadline) const;

 private:
  using Mark = std::array<uint8_t, 16>;  // of an identity in its namespace, or of a namespace
  static Mark MarkOf(absl::string_view ns, const std::optional<Identity>& identity);
  bool KnowsLocked(const DropPosition& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool DroppedLocked(const Mark& mark, const DropPosition& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t remembered_;
  mutable Mutex mutex_;
  mutable CondVar advanced_;
  std::optional<DropPosition> position_ ABSL_GUARDED_BY(mutex_);  // carried out; nullopt: nothing is known
  DropPosition since_ ABSL_GUARDED_BY(mutex_);                    // every drop after this position is remembered
  std::deque<std::pair<DropPosition, Mark>> order_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Mark, DropPosition> latest_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_DROP_MEMORY_H_
