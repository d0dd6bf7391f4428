// Connections to whichever server takes writes: a bounded number, made on demand and kept for later operations.
//
// Thread-safety: all methods. Ownership: owns its connections; calls must have returned before it is destroyed.
#ifndef KVLINK_STORE_DATABASE_POOL_H_
#define KVLINK_STORE_DATABASE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/database/connection.h"
#include "store/database/database.h"
#include "store/database/schema.h"

namespace kvlink::store::database {

// What an operation needs to know of the tables.
enum class Tables {
  kAny,     // nothing
  kLately,  // they were whole, and those of the cluster, within the last second
  kNow,     // they are, until its transaction ends
};

class Pool {
 public:
  using Work = absl::FunctionRef<absl::Status(Connection&, absl::Time deadline)>;

  Pool(const DatabaseOptions& options, std::vector<Host> hosts);

  // Runs `work`. If it returns ABORTED, repeats it on the same server, at most 20 times; if UNAVAILABLE, on whichever
  // server takes writes then, for the patience of the options; so, too, while tables or rights are missing that were
  // there before, or rights change. Rolls back whatever `work` has not committed. Ends by the earlier of `deadline` and
  // the operation timeout, which `work` gets as its deadline.
  absl::Status Run(absl::Time deadline, Work work, Tables tables = Tables::kNow);

 private:
  struct Pooled {
    std::unique_ptr<Connection> connection;
    absl::Time checked = absl::InfinitePast();  // when the tables were last found right
    bool used = false;  // by an earlier operation: if it is broken, that says nothing about the server
  };
  // `seen`: the user's rights as the latest check of this operation found them. An error that IsUnrestored: the
  // statement may have been refused before the user had the rights that it has now.
  absl::Status Attempt(Pooled& pooled, Tables tables, absl::Time deadline, Work work, Rights& seen);
  // Whether the tables are those of the cluster. `refused`: the error of a statement that missed tables or rights,
  // which is returned unless something else explains it.
  absl::Status Check(Connection& connection, const absl::Status& refused, absl::Time deadline, Rights& seen);
  absl::StatusOr<Pooled> Take(absl::Time deadline);
  void Give(Pooled pooled);
  absl::StatusOr<Pooled> Connect(absl::Time deadline);

  const DatabaseOptions options_;
  const std::vector<Host> hosts_;
  const Query guard_;
  Mutex mutex_;
  CondVar returned_;
  int taken_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Pooled> idle_ ABSL_GUARDED_BY(mutex_);
  size_t first_ ABSL_GUARDED_BY(mutex_) = 0;        // the host that took writes last
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;  // some host has taken writes
  int64_t rights_ ABSL_GUARDED_BY(mutex_) = 0;  // all that the user has had to the tables; 0: these were never right
};

}  // namespace kvlink::store::database

#endif  // KVLINK_STORE_DATABASE_POOL_H_
