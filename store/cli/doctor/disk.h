// The disk of a store's directory as kvlink doctor finds it. Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_DOCTOR_DISK_H_
#define KVLINK_STORE_CLI_DOCTOR_DISK_H_

#include <string>
#include <vector>

#include "store/cli/doctor/finding.h"

namespace kvlink::cli {

// store, free_space, direct_io, flush; store alone if nothing can be written there. A directory that does not exist yet
// is judged by the nearest one above it that does. Writes a small file there and removes it; touches nothing else.
std::vector<Finding> ExamineDisk(const std::string& directory);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_DOCTOR_DISK_H_
