// Keeps the limits of namespaces on a node as the cluster's database has them: those that are set there, with their
// revisions, and no others. They are limits of the whole cluster; which share of them the node enforces MemberNode
// tells its engine.
//
// What the database has holds, also where the node has a later revision: a namespace that was deleted begins at 1
// again, and a database that was restored from a backup goes back. While the database is gone the node goes on with
// what it has, which its engine keeps.
//
// Thread-safety: all methods, called one at a time in this order. Ownership: engine and database outlive it; starts one
// thread, `limits`.
#ifndef KVLINK_STORE_CLUSTER_NODE_LIMIT_FOLLOWER_H_
#define KVLINK_STORE_CLUSTER_NODE_LIMIT_FOLLOWER_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/cluster/members/connection.h"
#include "store/database/database.h"
#include "store/engine/engine.h"

namespace kvlink::store::cluster {

class LimitFollower {
 public:
  // Starts nothing. `events` is told of "limits_not_followed" and "limits_followed", on the thread.
  LimitFollower(engine::Engine* engine, database::DatabaseCatalog* database, EventSink events);
  ~LimitFollower();  // as Stop
  LimitFollower(const LimitFollower&) = delete;
  LimitFollower& operator=(const LimitFollower&) = delete;

  // Takes what holds when it is called: before the node serves. Tries again, with pauses, while the database is
  // UNAVAILABLE or too slow, until the deadline. Errors of DatabaseCatalog::ListNamespaces and
  // Engine::ReplaceNamespaces; the node then has the limits that it had.
  absl::Status CatchUp(absl::Time deadline);
  // Looks again every second until Stop. Once.
  void Start();
  // Ends within 5 s, which is the limit of one look.
  void Stop();

 private:
  absl::Status Look(absl::Time deadline);
  void Follow();
  // False: it is to end.
  bool Pause(absl::Duration pause);

  engine::Engine* const engine_;
  database::DatabaseCatalog* const database_;
  const EventSink events_;
  Mutex mutex_;
  CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_LIMIT_FOLLOWER_H_
