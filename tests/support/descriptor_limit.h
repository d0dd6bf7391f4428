// Descriptors for tests that open many.
#ifndef KVLINK_TESTS_SUPPORT_DESCRIPTOR_LIMIT_H_
#define KVLINK_TESTS_SUPPORT_DESCRIPTOR_LIMIT_H_

#include <sys/resource.h>

#include <cstdint>

namespace kvlink::testing {

// Gives this process as many descriptors as the system allows; how many that is.
inline int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_DESCRIPTOR_LIMIT_H_
