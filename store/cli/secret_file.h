// Files that hold a secret. Thread-safety: pure functions but for the file.
#ifndef KVLINK_STORE_CLI_SECRET_FILE_H_
#define KVLINK_STORE_CLI_SECRET_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace kvlink::cli {

// Of a tenant's secret, and of a key on a node.
inline constexpr size_t kMinSecretBytes = 16;
inline constexpr size_t kMaxSecretBytes = 4096;

// The bytes of a file without one newline at their end. INVALID_ARGUMENT, naming the file and never its bytes: no
// regular file, others may read or write it, or it has not `min_bytes` to `max_bytes`; NOT_FOUND and PERMISSION_DENIED.
absl::StatusOr<std::string> ReadSecretFile(const std::string& path, size_t min_bytes, size_t max_bytes);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_SECRET_FILE_H_
