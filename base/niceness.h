// The niceness of a thread: how much it yields to others that want a processor.
//
// Thread-safety: all functions.
#ifndef KVLINK_BASE_NICENESS_H_
#define KVLINK_BASE_NICENESS_H_

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace kvlink {

// Adds to the niceness of the calling thread; on Linux each thread has its own. Work that readers do not wait for calls
// this at its start. If the system does not permit it, the niceness stays.
inline void AddNiceness(int more) {
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), getpriority(PRIO_PROCESS, 0) + more);
}

}  // namespace kvlink

#endif  // KVLINK_BASE_NICENESS_H_
