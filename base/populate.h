// Makes memory resident, page by page, so that whoever uses it first does not wait for the system.
//
// Thread-safety: for ranges that do not overlap; the bytes may be in use.
#ifndef KVLINK_BASE_POPULATE_H_
#define KVLINK_BASE_POPULATE_H_

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // missing from older glibc headers
#endif

namespace kvlink {

// Brings in a page for every `step` bytes by writing to it. An atomic operation, since the byte may be in use.
inline void TouchEach(std::byte* data, int64_t bytes, int64_t step) {
  for (int64_t i = 0; i < bytes; i += step) __atomic_fetch_or(reinterpret_cast<unsigned char*>(data + i), 0, 0);
}

// Multiples of 4096, mapped for writing. False, with errno: the system has no memory; part of the range may be
// resident. In small steps: each holds a lock of the whole address space, and threads that map memory or grow a heap
// wait for it.
inline bool PopulateMemory(std::byte* data, int64_t bytes) {
  constexpr int64_t kPageBytes = 4096, kStepBytes = int64_t{2} << 20;
  for (int64_t done = 0; done < bytes; done += kStepBytes) {
    const int64_t step = std::min(kStepBytes, bytes - done);
    if (madvise(data + done, step, MADV_POPULATE_WRITE) == 0) continue;
    if (errno != EINVAL) return false;
    TouchEach(data + done, step, kPageBytes);  // a kernel before 5.14
  }
  return true;
}

}  // namespace kvlink

#endif  // KVLINK_BASE_POPULATE_H_
