// Reads files that hold a secret. Thread-safety: all functions.
#ifndef KVLINK_STORE_CLI_SECRET_FILE_H_
#define KVLINK_STORE_CLI_SECRET_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace kvlink::cli {

// Sizes of a tenant's secret, and of a key for a node.
inline constexpr size_t kMinSecretBytes = 16;
inline constexpr size_t kMaxSecretBytes = 4096;

// Returns the bytes of a file without a final newline. INVALID_ARGUMENT, naming the file and never its bytes: it is not
// a regular file, others may read or write it, or it does not have `min_bytes` to `max_bytes`. NOT_FOUND,
// PERMISSION_DENIED: it cannot be opened.
absl::StatusOr<std::string> ReadSecretFile(const std::string& path, size_t min_bytes, size_t max_bytes);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_SECRET_FILE_H_
