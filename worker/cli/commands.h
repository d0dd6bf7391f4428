// The commands of the binary. Each gets the arguments behind its name and returns what main prints and turns into the
// exit status: OK is 0, anything else one line on standard error and 1.
#ifndef KVLINK_WORKER_CLI_COMMANDS_H_
#define KVLINK_WORKER_CLI_COMMANDS_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace kvlink::cli {

absl::Status RunIngest(absl::Span<char* const> args);
absl::Status RunAsk(absl::Span<char* const> args);
absl::Status RunInspect(absl::Span<char* const> args);
absl::Status RunPlan(absl::Span<char* const> args);
absl::Status RunVerify(absl::Span<char* const> args);
absl::Status RunStore(absl::Span<char* const> args);
absl::Status RunStatus(absl::Span<char* const> args);
absl::Status RunDrain(absl::Span<char* const> args);
absl::Status RunNamespace(absl::Span<char* const> args);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_COMMANDS_H_
