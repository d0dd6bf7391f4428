// Tells what a member owns at the present epoch, and at the sixteen before it for clients that have not seen the
// present one. At each epoch it owns the slots that the current or the next table gives it.
//
// Before the node's id is known it owns everything, so that no request is sent elsewhere by mistake.
//
// Thread-safety: all methods; those that take an identity lock only to copy a pointer.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_OWNERSHIP_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_OWNERSHIP_H_

#include <bitset>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "store/cluster/placement.h"
#include "store/cluster/view.h"
#include "store/node/ownership.h"

namespace kvlink::store::cluster {

class MemberOwnership final : public node::Ownership {
 public:
  static constexpr size_t kFormerEpochs = 16;
  // As DroppedSince(); callers may hold a lock, so it must not block.
  using AskDropped = std::function<bool(absl::string_view ns, const Identity& identity, const DropPosition& since)>;

  // Sets the node whose ownership this is. Call once.
  void SetNode(const NodeId& id);
  // Takes the view that holds from now on. A view with other members and no greater epoch (etcd went back to an older
  // state) discards all former epochs.
  void Update(const std::shared_ptr<const View>& view);
  // Sets the function that answers DroppedSince(). Call before the node opens sessions. Without it nothing counts as
  // dropped.
  void AskDropsOf(AskDropped ask);

  uint64_t epoch() const override;
  bool Owns(const Identity& identity, uint64_t epoch) const override;
  bool Takes(const Identity& identity) const override;
  // The fraction of all copies of all slots that it owns at the present epoch, 0 to 1. While members join or drain, all
  // shares together exceed 1. nullopt: the node is not a member, or not known yet.
  std::optional<double> share() const;
  // The slots that it owns at the present epoch. Null: as for share().
  std::shared_ptr<const std::bitset<kSlots>> owned() const;
  bool DroppedSince(absl::string_view ns, const Identity& identity, const DropPosition& since) const override;

 private:
  struct Era {
    uint64_t epoch = 0;
    std::bitset<kSlots> owned, next;
    std::optional<double> share;
  };
  using Eras = std::vector<std::shared_ptr<const Era>>;  // the present epoch first

  void Add(const Placement& placement) ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_mutex_);
  std::shared_ptr<const Eras> eras() const;

  Mutex update_mutex_;  // serializes updates
  std::optional<NodeId> node_ ABSL_GUARDED_BY(update_mutex_);
  std::shared_ptr<const View> view_ ABSL_GUARDED_BY(update_mutex_);  // until node_ is set
  std::vector<Member> members_ ABSL_GUARDED_BY(update_mutex_);       // of the present epoch
  mutable Mutex mutex_;
  std::shared_ptr<const Eras> eras_ ABSL_GUARDED_BY(mutex_);               // null until node_ is set
  std::shared_ptr<const AskDropped> ask_dropped_ ABSL_GUARDED_BY(mutex_);  // null: nothing counts as dropped
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_OWNERSHIP_H_
