// The store's commands. Each takes the arguments after its name, and returns the status that RunProgram prints and
// turns into the exit status.
#ifndef KVLINK_STORE_CLI_COMMANDS_H_
#define KVLINK_STORE_CLI_COMMANDS_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace kvlink::cli {

absl::Status RunStore(absl::Span<char* const> args);
absl::Status RunStatus(absl::Span<char* const> args);
absl::Status RunDrain(absl::Span<char* const> args);
absl::Status RunCluster(absl::Span<char* const> args);
absl::Status RunMembers(absl::Span<char* const> args);
absl::Status RunNamespace(absl::Span<char* const> args);
absl::Status RunCatalog(absl::Span<char* const> args);
absl::Status RunDelete(absl::Span<char* const> args);
absl::Status RunVerify(absl::Span<char* const> args);
absl::Status RunInspectStore(absl::Span<char* const> args);
absl::Status RunDoctorStore(absl::Span<char* const> args);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_COMMANDS_H_
