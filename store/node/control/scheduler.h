// Decides when calls of the control service proceed, and for how long: within a grant's share, the longest-waiting
// first.
//
// An admitted call waits with its message unread. A bounded number of calls is *active* at a time: their messages are
// read, they are executed on threads of ours, and their answers are sent. Each grant has a share of the active calls;
// administrators also have reserved places and a thread of their own. Each phase has a deadline. A late call is
// refused; if even the refusal cannot be delivered (the peer reads nothing), the call is cut off.
//
// Thread-safety: all methods. Lifetime: must outlive the server whose calls it schedules.
#ifndef KVLINK_STORE_NODE_CONTROL_SCHEDULER_H_
#define KVLINK_STORE_NODE_CONTROL_SCHEDULER_H_

#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/node/control/call.h"
#include "store/node/limits.h"
#include "store/node/watch/metrics.h"

namespace kvlink::store::node {

class CallScheduler {
 public:
  CallScheduler(const NodeLimits& limits, Metrics* metrics);
  // Call after the server whose calls it schedules is destroyed.
  ~CallScheduler();

  Metrics* metrics() const { return metrics_; }

  // Admits a new call. RESOURCE_EXHAUSTED: its session, its grant or the node has its limit of calls waiting; the
  // caller must answer the call.
  absl::Status Add(const std::shared_ptr<ControlCall>& call);
  // Adds a call that is already being answered, only to watch its end.
  void AddAnswered(const std::shared_ptr<ControlCall>& call);
  // Ends streams, and all calls that are not being executed yet.
  void Stop();

  // Called by calls.
  void Received(const std::shared_ptr<ControlCall>& call);
  // Refuses the call unless it is already being executed or answered.
  void Abandon(const std::shared_ptr<ControlCall>& call, const absl::Status& why);
  void Writes(ControlCall* call);
  void Wrote(ControlCall* call);
  void Done(const std::shared_ptr<ControlCall>& call);

  int64_t waiting() const;

 private:
  using Calls = std::vector<std::shared_ptr<ControlCall>>;
  using Phase = ControlCall::Phase;
  // Of one grant.
  struct Share {
    int64_t calls = 0, active = 0, running = 0;
  };

  static bool IsAdministrator(const ControlCall& call);
  Share& ShareOf(const ControlCall& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns the calls that have become active; the caller must Read them without the lock.
  Calls Activate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Begin(const Calls& calls);
  void Enter(ControlCall* call, Phase phase, absl::Duration within) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns false if it is too late to refuse the call.
  bool TakeForAnswer(const std::shared_ptr<ControlCall>& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<ControlCall> NextToRun(bool streams, bool administrators) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work(bool streams, bool administrators);
  void Sweep();

  const NodeLimits limits_;
  Metrics* const metrics_;
  mutable Mutex mutex_;
  CondVar work_, sweep_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;  // streams end
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;    // threads end
  absl::flat_hash_set<std::shared_ptr<ControlCall>> calls_ ABSL_GUARDED_BY(mutex_);
  std::list<std::shared_ptr<ControlCall>> waiting_ ABSL_GUARDED_BY(mutex_);  // oldest first
  std::deque<std::shared_ptr<ControlCall>> queue_ ABSL_GUARDED_BY(mutex_);   // to be executed
  std::map<std::string, Share> shares_ ABSL_GUARDED_BY(mutex_);
  std::map<const Session*, int64_t> sessions_ ABSL_GUARDED_BY(mutex_);  // number of calls
  int64_t admitted_ ABSL_GUARDED_BY(mutex_) = 0, active_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t streams_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Thread> threads_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_SCHEDULER_H_
