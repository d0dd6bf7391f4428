// What the parts of a repairer share.
//
// Thread-safety: each member as its own header says; Stopping: all methods. Lifetime: the repairer's.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_CONTEXT_H_
#define KVLINK_STORE_CLUSTER_REPAIR_CONTEXT_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/cluster/repair/drop_memory.h"
#include "store/cluster/repair/ledger.h"
#include "store/cluster/repair/peers.h"
#include "store/cluster/repair/rate_limit.h"
#include "store/cluster/repair/repair.h"
#include "store/cluster/view.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

// That the repairer is to end.
class Stopping {
 public:
  void Begin() {
    MutexLock lock(&mutex_);
    begun_ = true;
    wake_.SignalAll();
  }
  bool begun() const {
    MutexLock lock(&mutex_);
    return begun_;
  }
  // Waits until then. False: it is to end.
  bool WaitUntil(absl::Time time) const {
    MutexLock lock(&mutex_);
    while (!begun_ && wake_.WaitUntil(&mutex_, time)) {
    }
    return !begun_;
  }

 private:
  mutable Mutex mutex_;
  mutable CondVar wake_;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
};

// Of a slot. A node has some thousands; a peer that lists without an end is left.
inline constexpr int64_t kMaxListed = int64_t{1} << 18;

struct RepairContext {
  RepairContext(engine::Engine* engine, const ViewSource* views, std::shared_ptr<const DropMemory> drops,
                RepairOptions options)
      : engine(engine),
        views(views),
        drops(std::move(drops)),
        options(std::move(options)),
        peers(this->options.open_peer, this->options.retry, this->options.report),
        rate(this->options.bytes_per_second, absl::Milliseconds(100)),
        ledger(this->options.progress) {}

  engine::Engine* const engine;
  const ViewSource* const views;
  const std::shared_ptr<const DropMemory> drops;  // may be null
  const RepairOptions options;
  Peers peers;
  RateLimit rate;
  Ledger ledger;
  Stopping stopping;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_CONTEXT_H_
