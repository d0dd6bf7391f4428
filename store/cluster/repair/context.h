// The state that the parts of a repairer share.
//
// Thread-safety: each member as its own header says; KeptCopies: all methods. Lifetime: the repairer's.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_CONTEXT_H_
#define KVLINK_STORE_CLUSTER_REPAIR_CONTEXT_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <utility>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/stopping.h"
#include "store/cluster/repair/drop_memory.h"
#include "store/cluster/repair/ledger.h"
#include "store/cluster/repair/peers.h"
#include "store/cluster/repair/rate_limit.h"
#include "store/cluster/repair/repair.h"
#include "store/cluster/view.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

// How often a wait looks whether repair is stopping.
inline constexpr absl::Duration kStopLook = absl::Milliseconds(50);

// The further copies that this node keeps although it does not own their slots.
class KeptCopies {
 public:
  void Set(std::set<engine::EncodingKey> kept) {
    MutexLock lock(&mutex_);
    released_ |= !std::includes(kept.begin(), kept.end(), kept_.begin(), kept_.end());
    kept_ = std::move(kept);
  }
  bool Has(const engine::EncodingKey& key) const {
    MutexLock lock(&mutex_);
    return kept_.contains(key);
  }
  // Whether any was dropped from the set since the last call.
  bool TakeReleased() {
    MutexLock lock(&mutex_);
    return std::exchange(released_, false);
  }

 private:
  mutable Mutex mutex_;
  std::set<engine::EncodingKey> kept_ ABSL_GUARDED_BY(mutex_);
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
};

struct RepairContext {
  RepairContext(engine::Engine* engine, const ViewSource* views, std::shared_ptr<const DropMemory> drops,
                RepairOptions options)
      : engine(engine),
        views(views),
        drops(std::move(drops)),
        options(std::move(options)),
        peers(this->options.open_peer, this->options.retry, this->options.report),
        rate(this->options.bytes_per_second, absl::Milliseconds(20)),
        ledger(this->options.progress) {}

  // UNAVAILABLE: a peer that has carried out the drops up to `peer` must carry out more before this node copies from
  // it.
  absl::Status CheckDrops(const DropPosition& peer) const {
    if (drops == nullptr || drops->Knows(peer)) return absl::OkStatus();
    return absl::UnavailableError("the peer has not carried out the drops that this node has forgotten");
  }

  engine::Engine* const engine;
  const ViewSource* const views;
  const std::shared_ptr<const DropMemory> drops;  // may be null
  const RepairOptions options;
  Peers peers;
  RateLimit rate;
  Ledger ledger;
  KeptCopies kept;
  Stopping stopping;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_CONTEXT_H_
