// The number of descriptors this process may open, which limits everything that holds some per peer or per file.
// Thread-safety: both functions are thread-safe.
#ifndef KVLINK_BASE_DESCRIPTOR_LIMIT_H_
#define KVLINK_BASE_DESCRIPTOR_LIMIT_H_

#include <cstdint>

namespace kvlink {

// Raises the process's soft limit on open files to the hard limit, and returns DescriptorLimit(). Called by every node
// and by every Engine::Open, since segments, the index and connections all use descriptors.
int64_t RaiseDescriptorLimit();
// The current soft limit; at most 2^30.
int64_t DescriptorLimit();

}  // namespace kvlink

#endif  // KVLINK_BASE_DESCRIPTOR_LIMIT_H_
