// Exit statuses of commands: the one mapping from absl::Status, listed in docs/operations.md.
// Thread-safety: pure functions.
#ifndef KVLINK_BASE_CLI_EXIT_STATUS_H_
#define KVLINK_BASE_CLI_EXIT_STATUS_H_

#include "absl/status/status.h"

namespace kvlink::cli {

enum ExitStatus : int {
  kDone = 0,
  kFailed = 1,        // part of the work failed, or an error without an exit status of its own
  kUsage = 2,         // bad arguments or bad input
  kNotFound = 3,      // a file, model, store or document does not exist
  kRefused = 4,       // permission denied, or not allowed in this state
  kUnavailable = 5,   // no answer, in use, or too slow; retrying may help
  kDamage = 6,        // stored bytes are corrupt
  kNoRoom = 7,        // out of disk, memory or quota
  kInterrupted = 130  // by SIGINT; the shells' convention
};

ExitStatus ExitStatusOf(const absl::Status& status);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_EXIT_STATUS_H_
