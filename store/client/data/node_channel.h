// The one data connection over one carrier: dialled when it is first needed, in the present session, and again when it
// has closed, which it also is where nobody uses it.
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
  // Makes a connection for a session; says hello is the channel's part.
  using Dial =
      std::function<absl::StatusOr<std::shared_ptr<NodeConnection>>(const OpenedSession& session, absl::Time deadline)>;
  NodeChannel(Control* control, ClientCounters* counters, absl::Duration connect_timeout, Dial dial)
      : control_(control), counters_(counters), connect_timeout_(connect_timeout), dial_(std::move(dial)) {}
  ~NodeChannel();  // as Close

  // The open connection, used for as long as the result is held. One of the callers dials, the others wait for it.
  // UNAVAILABLE (with RetryAfter soon after an attempt that failed: it is not made again yet), DEADLINE_EXCEEDED,
  // FAILED_PRECONDITION (what answers there is another node), and what Control gives.
  absl::StatusOr<std::shared_ptr<NodeConnection>> Acquire(absl::Time deadline);
  // As Acquire, without dialling or waiting; null where there is none.
  std::shared_ptr<NodeConnection> Present();
  // Closes a connection that nobody has used since `before`. Does not wait. Whether there is none.
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

  // The connection is none any more, but kept until the transport is done with it.
  void Retire() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets those that it is done with.
  void Prune() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar changed_;
  Usage usage_;  // begins under the lock
  std::shared_ptr<NodeConnection> connection_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<NodeConnection>> retired_
      ABSL_GUARDED_BY(mutex_);  // closed, but perhaps not yet for the transport
  bool dialling_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int connections_ ABSL_GUARDED_BY(mutex_) = 0;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;  // in a row
  absl::Time not_before_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Status last_failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_NODE_CHANNEL_H_
