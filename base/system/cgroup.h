// The limits that control groups (Linux, version 2 or 1) set to this process: what a container or a job may use of its
// machine. Thread-safety: a pure function over the file system.
#ifndef KVLINK_BASE_SYSTEM_CGROUP_H_
#define KVLINK_BASE_SYSTEM_CGROUP_H_

#include <cstdint>
#include <string>

namespace kvlink {

struct CgroupLimits {
  double processors = 0;  // the time of so many; 0: unlimited
  int64_t memory = 0;     // bytes; 0: unlimited
};

// The lowest limits of the process's groups and of those above them; what cannot be read limits nothing. `root`: of the
// file system, for tests.
CgroupLimits ReadCgroupLimits(const std::string& root = "");

}  // namespace kvlink

#endif  // KVLINK_BASE_SYSTEM_CGROUP_H_
