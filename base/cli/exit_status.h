// Exit statuses of commands: the one mapping from absl::Status, listed in docs/operations.md.
// Thread-safety: pure functions.
#ifndef KVLINK_BASE_CLI_EXIT_STATUS_H_
#define KVLINK_BASE_CLI_EXIT_STATUS_H_

#include "absl/status/status.h"

namespace kvlink::cli {

enum ExitStatus : int {
  kDone = 0,
  kFailed = 1,
  kUsage = 2,
  kNotFound = 3,
  kRefused = 4,
  kUnavailable = 5,
  kDamage = 6,
  kNoRoom = 7,
  kInterrupted = 130  // the shells' convention
};

struct ExitStatusMeaning {
  ExitStatus status;
  const char* meaning;
};
inline constexpr ExitStatusMeaning kExitStatuses[] = {
    {kDone, "everything was done"},
    {kFailed, "part of the work failed, or an error without an exit status of its own"},
    {kUsage, "bad arguments or bad input"},
    {kNotFound, "a file, model, store or document does not exist"},
    {kRefused, "permission denied, or not allowed in this state"},
    {kUnavailable, "no answer, in use, or too slow; retrying may help"},
    {kDamage, "stored bytes are corrupt"},
    {kNoRoom, "out of disk, memory or quota"},
    {kInterrupted, "interrupted by SIGINT"},
};

ExitStatus ExitStatusOf(const absl::Status& status);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_EXIT_STATUS_H_
