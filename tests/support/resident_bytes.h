// Memory of this process.
#ifndef KVLINK_TESTS_SUPPORT_RESIDENT_BYTES_H_
#define KVLINK_TESTS_SUPPORT_RESIDENT_BYTES_H_

#include <unistd.h>

#include <cstdint>
#include <fstream>

namespace kvlink::testing {

inline int64_t ResidentBytes() {
  int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_RESIDENT_BYTES_H_
