// The host as kvlink doctor finds it. Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_DOCTOR_HOST_H_
#define KVLINK_STORE_CLI_DOCTOR_HOST_H_

#include <cstdint>
#include <vector>

#include "store/cli/doctor/finding.h"

namespace kvlink::cli {

// processors, numa_nodes, memory, huge_pages, io_uring, locked_memory, open_files, shared_memory, ucx.
std::vector<Finding> ExamineHost();

// Bytes that this process may still take: what the system has available, but no more than the control group's limit.
int64_t AvailableMemory();

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_DOCTOR_HOST_H_
