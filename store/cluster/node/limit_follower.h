// Keeps a node's namespace limits equal to those in the cluster's database. They are limits of the whole cluster;
// MemberNode tells the engine which share of them this node enforces.
//
// The database is always right, even if the node has a later revision: a deleted namespace starts again at 1, and a
// database restored from a backup goes back. While the database is unreachable, the node keeps the limits it has, which
// its engine stores.
//
// Thread-safety: all methods, called one at a time in this order. Ownership: engine and database outlive it; it starts
// one thread, `limits`.
#ifndef KVLINK_STORE_CLUSTER_NODE_LIMIT_FOLLOWER_H_
#define KVLINK_STORE_CLUSTER_NODE_LIMIT_FOLLOWER_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/stopping.h"
#include "base/thread.h"
#include "store/cluster/members/connection.h"
#include "store/database/database.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

class LimitFollower {
 public:
  // Starts nothing. `events` receives "limits_not_followed" and "limits_followed", on the thread.
  LimitFollower(engine::Engine* engine, database::DatabaseCatalog* database, EventSink events);
  ~LimitFollower();  // as Stop
  LimitFollower(const LimitFollower&) = delete;
  LimitFollower& operator=(const LimitFollower&) = delete;

  // Applies the current limits, before the node serves. Retries, with pauses, while the database is UNAVAILABLE or too
  // slow, until the deadline. Errors of DatabaseCatalog::ListNamespaces and Engine::ReplaceNamespaces, with the node's
  // limits unchanged.
  absl::Status CatchUp(absl::Time deadline);
  // Reads the limits every second until Stop. Call it once.
  void Start();
  // Returns within 5 s, the time limit of one read.
  void Stop();

 private:
  absl::Status ReadLimits(absl::Time deadline);
  void Follow();

  engine::Engine* const engine_;
  database::DatabaseCatalog* const database_;
  const EventSink events_;
  Stopping stopping_;
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_LIMIT_FOLLOWER_H_
