// How many descriptors this process may have, which bounds whatever holds some for each of its peers or files.
// Thread-safety: functions that may be called from any thread.
#ifndef KVLINK_BASE_DESCRIPTOR_LIMIT_H_
#define KVLINK_BASE_DESCRIPTOR_LIMIT_H_

#include <cstdint>

namespace kvlink {

// Raises this process's soft limit of open files to the hard one. Every node, and every opening of an engine, calls it:
// segments, the index and connections all take descriptors. Returns DescriptorLimit().
int64_t RaiseDescriptorLimit();
// The soft limit now; at most 2^30.
int64_t DescriptorLimit();

}  // namespace kvlink

#endif  // KVLINK_BASE_DESCRIPTOR_LIMIT_H_
