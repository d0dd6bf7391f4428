// The thread sets its own name, so that the name is in place before `run` begins and a thread that ends at once is no
// race.
#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "base/system/cgroup.h"

namespace kvlink {

Thread::Thread(const char* name, std::function<void()> run)
    : thread_([shown = std::string(name, strnlen(name, 15)), run = std::move(run)] {
        pthread_setname_np(pthread_self(), shown.c_str());
        run();
      }) {}

Thread& Thread::operator=(Thread&& other) noexcept {
  Join();
  thread_ = std::move(other.thread_);
  return *this;
}

void Thread::Join() {
  if (thread_.joinable()) thread_.join();
}

void AddNiceness(int more) {
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), getpriority(PRIO_PROCESS, 0) + more);
}

int AvailableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int processors = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) processors = CPU_COUNT(&set);
  // More threads would only be held back.
  const double time = ReadCgroupLimits().processors;
  if (time > 0) processors = static_cast<int>(std::min<double>(processors, std::ceil(time)));
  return std::max(1, processors);
}

}  // namespace kvlink
