// When calls of the control service go on, and for how long: who has waited longest within a grant's share.
//
// A call that was admitted waits without its message being read. A bounded number of calls is *active* at a time: their
// messages are read, they are carried out on threads of ours, and their answers are taken. Of these, a grant has a
// share, and those of administrators have places and a thread that nobody else gets. Each phase has a deadline; what is
// late is refused, and what is not even refusable (the peer reads nothing) is cut.
//
// Thread-safety: all methods. Lifetime: it outlives the server whose calls it schedules.
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
  // After the server whose calls it schedules is gone.
  ~CallScheduler();

  Metrics* metrics() const { return metrics_; }

  // Takes a call that has just come. RESOURCE_EXHAUSTED: as many of its session, of its grant or of all wait as may;
  // the call then is the caller's to answer.
  absl::Status Add(const std::shared_ptr<ControlCall>& call);
  // One that is being answered already: only its end is watched.
  void AddAnswered(const std::shared_ptr<ControlCall>& call);
  // Ends streams, and whatever has not begun to be carried out.
  void Stop();

  // From calls.
  void Received(const std::shared_ptr<ControlCall>& call);
  // Refuses the call unless it is being carried out or answered.
  void Abandon(const std::shared_ptr<ControlCall>& call, const absl::Status& why);
  void Writes(ControlCall* call);
  void Wrote(ControlCall* call);
  void Done(const std::shared_ptr<ControlCall>& call);

  int64_t waiting() const;

 private:
  using Calls = std::vector<std::shared_ptr<ControlCall>>;
  using Phase = ControlCall::Phase;
  // Of a grant.
  struct Share {
    int64_t calls = 0, active = 0, running = 0;
  };

  static bool IsAdministrator(const ControlCall& call);
  Share& ShareOf(const ControlCall& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Calls that have become active, for the caller to Read without the lock.
  Calls Activate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Begin(const Calls& calls);
  void Enter(ControlCall* call, Phase phase, absl::Duration within) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False: it is too late to refuse it.
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
  std::deque<std::shared_ptr<ControlCall>> queue_ ABSL_GUARDED_BY(mutex_);   // to be carried out
  std::map<std::string, Share> shares_ ABSL_GUARDED_BY(mutex_);
  std::map<const Session*, int64_t> sessions_ ABSL_GUARDED_BY(mutex_);  // their calls
  int64_t admitted_ ABSL_GUARDED_BY(mutex_) = 0, active_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t streams_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Thread> threads_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_SCHEDULER_H_
