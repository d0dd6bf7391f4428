// Exit statuses of commands: the one mapping from absl::Status, listed in docs/operations.md.
// Thread-safety: pure functions.
#ifndef KVLINK_BASE_CLI_EXIT_STATUS_H_
#define KVLINK_BASE_CLI_EXIT_STATUS_H_

#include "absl/status/status.h"

namespace kvlink::cli {

enum ExitStatus : int {
  kDone = 0,
  kFailed = 1,        // part of the work failed, or something that has no status of its own
  kUsage = 2,         // what was typed or given as input
  kNotFound = 3,      // a file, model, store or document that is not there
  kRefused = 4,       // no right to it, or not in this state
  kUnavailable = 5,   // nobody answers, in use, or too slow: trying again may help
  kDamage = 6,        // bytes are not what was written
  kNoRoom = 7,        // of disk, memory or a quota
  kInterrupted = 130  // by SIGINT, as shells have it
};

ExitStatus ExitStatusOf(const absl::Status& status);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_EXIT_STATUS_H_
