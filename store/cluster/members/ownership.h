// What a member owns: at the present epoch, and at the sixteen before it, for requests of those who have not heard of
// the present one. At each epoch that is what the current table or the next one gives to it.
//
// Before the node's id is known it owns everything, so that nothing is sent elsewhere by mistake.
// Thread-safety: all methods; questions about an identity lock only to copy a pointer.
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
  // As DroppedSince; called under a lock, so it must not block.
  using AskDropped = std::function<bool(absl::string_view ns, const Identity& identity, const DropPosition& since)>;

  // Whom it is about; once.
  void SetNode(const NodeId& id);
  // The view that holds from now on. One of other members whose epoch is not above the last (etcd was set back) makes
  // all before it forgotten.
  void Update(const std::shared_ptr<const View>& view);
  // Sets who answers DroppedSince; before the node opens sessions. Without it nothing counts as dropped.
  void AskDropsOf(AskDropped ask);

  uint64_t epoch() const override;
  bool Owns(const Identity& identity, uint64_t epoch) const override;
  bool Takes(const Identity& identity) const override;
  // The fraction of all copies of all slots that it owns at the present epoch, 0 to 1. While members join or drain, all
  // shares together exceed 1. Nothing: the node is not a member, or not known yet.
  std::optional<double> share() const;
  bool DroppedSince(absl::string_view ns, const Identity& identity, const DropPosition& since) const override;

 private:
  struct Era {
    uint64_t epoch = 0;
    std::bitset<kSlots> owned, next;
    std::optional<double> share;
  };
  using Eras = std::vector<std::shared_ptr<const Era>>;  // the present one first

  void Add(const Placement& placement) ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_mutex_);
  std::shared_ptr<const Eras> eras() const;

  Mutex update_mutex_;  // of those who change it
  std::optional<NodeId> node_ ABSL_GUARDED_BY(update_mutex_);
  std::shared_ptr<const View> view_ ABSL_GUARDED_BY(update_mutex_);  // while there is no node_
  std::vector<Member> members_ ABSL_GUARDED_BY(update_mutex_);       // of the present epoch
  mutable Mutex mutex_;
  std::shared_ptr<const Eras> eras_ ABSL_GUARDED_BY(mutex_);               // null: there is no node_
  std::shared_ptr<const AskDropped> ask_dropped_ ABSL_GUARDED_BY(mutex_);  // null: nobody
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_OWNERSHIP_H_
