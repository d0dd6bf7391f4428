// The commands that need a model. Each takes the arguments after its name and returns the status that RunProgram prints
// and turns into the exit status.
#ifndef KVLINK_WORKER_CLI_COMMANDS_H_
#define KVLINK_WORKER_CLI_COMMANDS_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace kvlink::cli {

absl::Status RunIngest(absl::Span<char* const> args);
absl::Status RunAsk(absl::Span<char* const> args);
absl::Status RunServe(absl::Span<char* const> args);
absl::Status RunEval(absl::Span<char* const> args);
absl::Status RunInspect(absl::Span<char* const> args);
absl::Status RunPlan(absl::Span<char* const> args);
absl::Status RunDoctor(absl::Span<char* const> args);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_COMMANDS_H_
