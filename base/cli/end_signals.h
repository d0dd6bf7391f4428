// The signals of a process that serves: SIGTERM and SIGINT end it, SIGHUP makes it read files again. A thread reads
// them from a descriptor, so that no handler is needed and none waits for the main thread. While the process starts and
// while it ends, a signal to end ends it at once; while it serves, only the second one does.
//
// Thread-safety: all methods except the destructor. Ownership: starts one thread, `end-signals`. What is needed later
// is taken at the start: a process without descriptors ends like any other.
#ifndef KVLINK_BASE_CLI_END_SIGNALS_H_
#define KVLINK_BASE_CLI_END_SIGNALS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/descriptor.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace kvlink::cli {

class EndSignals {
 public:
  enum class Heard { kNothing, kHangUp, kEnd };

  // Blocks SIGTERM, SIGINT and SIGHUP; the process starts. REQUIRES: no other thread runs, since those that start later
  // inherit the block. Errors of the system, as if it has no descriptors left.
  static absl::StatusOr<std::unique_ptr<EndSignals>> Catch();
  // The signals stay blocked.
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // The process serves: the next SIGTERM or SIGINT is told to Next, and the process ends.
  void BeginServing();
  // The process ends, for another reason than a signal.
  void BeginEnding();
  // Waits for a signal, for `within` at most. kEnd, from then on always: SIGTERM or SIGINT came while the process
  // served. kHangUp: SIGHUP came since the last kHangUp.
  Heard Next(absl::Duration within);

 private:
  EndSignals(Descriptor signals, Descriptor stop);
  void Take(int signal);
  void Run();

  const Descriptor signals_, stop_;
  Mutex mutex_;
  CondVar wake_;
  bool at_once_ ABSL_GUARDED_BY(mutex_) = true;  // a signal ends the process
  bool end_ ABSL_GUARDED_BY(mutex_) = false;
  bool hang_up_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;  // last: it uses the other members
};

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_END_SIGNALS_H_
