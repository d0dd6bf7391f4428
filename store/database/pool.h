// Connections to whichever server takes writes: a bounded number, made on demand and kept for later operations.
//
// Thread-safety: all methods. Ownership: owns its connections; calls must have returned before it is destroyed.
#ifndef KVLINK_STORE_DATABASE_POOL_H_
#define KVLINK_STORE_DATABASE_POOL_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/database/connection.h"
#include "store/database/database.h"

namespace kvlink::store::database {

class Pool {
 public:
  using Work = absl::FunctionRef<absl::Status(Connection&, absl::Time deadline)>;

  Pool(const DatabaseOptions& options, std::vector<Host> hosts);

  // Runs `work` on a connection whose tables are those of the cluster. If it returns ABORTED, repeats it on the same
  // server, at most 20 times; if UNAVAILABLE, on whichever server takes writes then, for the patience of the options.
  // Rolls back whatever `work` has not committed. Ends by the earlier of `deadline` and the operation timeout, which
  // `work` gets as its deadline.
  absl::Status Run(absl::Time deadline, Work work);
  // Like Run, without checking the tables.
  absl::Status RunUnchecked(absl::Time deadline, Work work);

 private:
  struct Pooled {
    std::unique_ptr<Connection> connection;
    bool checked = false;
    bool stale = false;  // what it led to has gone
    bool used = false;   // by an earlier operation: if it is broken, that says nothing about the server
  };
  absl::Status Repeat(absl::Time deadline, bool check, Work work);
  absl::Status Attempt(Pooled& pooled, bool check, absl::Time deadline, Work work);
  absl::StatusOr<Pooled> Take(absl::Time deadline);
  void Give(Pooled pooled);
  absl::StatusOr<Pooled> Connect(absl::Time deadline);

  const DatabaseOptions options_;
  const std::vector<Host> hosts_;
  Mutex mutex_;
  CondVar returned_;
  int taken_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Pooled> idle_ ABSL_GUARDED_BY(mutex_);
  size_t first_ ABSL_GUARDED_BY(mutex_) = 0;        // the host that took writes last
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;  // some host has taken writes
  bool right_ ABSL_GUARDED_BY(mutex_) = false;      // the tables have been those of this cluster and build
};

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_POOL_H_
