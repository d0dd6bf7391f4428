// Reads a file again on a thread of its own, one read at a time, since the file system may hang: whoever asks for it,
// and the end of the process, wait for no read.
//
// Thread-safety: all methods except the destructor. Ownership: starts one thread, `reload`. Lifetime: the destructor
// waits a second for a read in progress; the thread of one that hangs is left behind, and what it reads is dropped.
#ifndef KVLINK_BASE_CLI_RELOAD_H_
#define KVLINK_BASE_CLI_RELOAD_H_

#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace kvlink::cli {

class Reload {
 public:
  // Puts to use what was read; must not block. Called on the thread, and never once the destructor has returned.
  using Use = std::function<void()>;
  // Reads. Called on the thread; may hang. What it refers to must last as long as the process.
  using Read = std::function<Use()>;

  // A read is overdue after `patience`.
  explicit Reload(Read read, absl::Duration patience = absl::Seconds(10));
  ~Reload();
  Reload(const Reload&) = delete;
  Reload& operator=(const Reload&) = delete;

  // Reads, after the read in progress if there is one.
  void Begin();
  // Whether the read in progress is overdue; true once for each read.
  bool Overdue();

 private:
  struct State {
    Mutex mutex;
    CondVar wake;
    bool asked ABSL_GUARDED_BY(mutex) = false;
    bool stop ABSL_GUARDED_BY(mutex) = false;
    bool reading ABSL_GUARDED_BY(mutex) = false;
    absl::Time overdue_at ABSL_GUARDED_BY(mutex) = absl::InfiniteFuture();  // of the read in progress, until it is told
  };
  static void Run(State* state, const Read& read, absl::Duration patience);

  const std::shared_ptr<State> state_;  // shared with the thread, which may be left behind
  Thread thread_;
};

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_RELOAD_H_
