// The one data connection over a carrier: dialled on first use, in the current session, and redialled after it has
// closed; an idle connection is closed too.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_CLIENT_DATA_NODE_CHANNEL_H_
#define KVLINK_STORE_CLIENT_DATA_NODE_CHANNEL_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/client/control/control.h"
#include "store/client/control/counters.h"
#include "store/client/control/usage.h"
#include "store/client/data/node_connection.h"

namespace kvlink::store::client {

class NodeChannel {
 public:
  // Makes a connection for a session. The channel then sends the hello.
  using Dial =
      std::function<absl::StatusOr<std::shared_ptr<NodeConnection>>(const OpenedSession& session, absl::Time deadline)>;
  NodeChannel(Control* control, ClientCounters* counters, absl::Duration connect_timeout, Dial dial)
      : control_(control), counters_(counters), connect_timeout_(connect_timeout), dial_(std::move(dial)) {}
  ~NodeChannel();  // calls Close()

  // Returns the open connection, which counts as used while the result is held. One caller dials, the others wait for
  // it. UNAVAILABLE (soon after a failed attempt with RetryAfter, since it is not repeated yet), DEADLINE_EXCEEDED,
  // FAILED_PRECONDITION (another node answers at the address), and the errors of Control.
  absl::StatusOr<std::shared_ptr<NodeConnection>> Acquire(absl::Time deadline);
  // Like Acquire, without dialling or blocking; null if no connection is open.
  std::shared_ptr<NodeConnection> Present();
  // Closes a connection unused since `before`. Does not block. Returns whether there is no connection now.
  bool CloseIdle(absl::Time before);
  // Closes, waits until the transport is done with all connections (10 s at most), and stays closed.
  void Close();

 private:
  absl::StatusOr<std::shared_ptr<NodeConnection>> Connect(std::shared_ptr<NodeConnection> connection,
                                                          absl::Time deadline);

  Control* const control_;
  ClientCounters* const counters_;
  const absl::Duration connect_timeout_;
  const Dial dial_;

  bool usable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return connection_ != nullptr && connection_->open() && connection_->session() == control_->number();
  }

  // Moves the connection to retired_, where it is kept until the transport is done with it.
  void Retire() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops retired connections that the transport is done with.
  void Prune() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar changed_;
  Usage usage_;  // updated under the lock
  std::shared_ptr<NodeConnection> connection_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<NodeConnection>> retired_
      ABSL_GUARDED_BY(mutex_);  // closed, but possibly still in use by the transport
  bool dialling_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int connections_ ABSL_GUARDED_BY(mutex_) = 0;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;  // consecutive
  absl::Time not_before_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Status last_failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_NODE_CHANNEL_H_
