// Loaded into a process by LD_PRELOAD: makes its host misbehave while it runs. The file KVLINK_HOST_FAULTS holds two
// numbers and is read on each call: by how many seconds the wall clock is off (steady clocks are unchanged), and by how
// many milliseconds each read, write and flush of its disk is delayed.
//
// With io_uring the delay is before completions are reaped, so that submitting takes no time, as on a real slow disk.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

namespace {

struct HostFaults {
  long clock_seconds = 0, disk_milliseconds = 0;
};

HostFaults Now() {
  static const char* const path = std::getenv("KVLINK_HOST_FAULTS");
  HostFaults faults;
  char text[64] = "";
  const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return faults;
  const ssize_t n = read(file, text, sizeof(text) - 1);
  close(file);
  if (n <= 0) return faults;
  char* rest = text;
  faults.clock_seconds = std::strtol(rest, &rest, 10);
  faults.disk_milliseconds = std::strtol(rest, nullptr, 10);
  return faults;
}

void AwaitDisk() {
  const long milliseconds = Now().disk_milliseconds;
  if (milliseconds <= 0) return;
  const timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  nanosleep(&time, nullptr);
}

template <typename Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

struct io_uring;
struct io_uring_cqe;
struct __kernel_timespec;

#define KVLINK_IN_PLACE_OF extern "C" __attribute__((visibility("default")))

KVLINK_IN_PLACE_OF int clock_gettime(clockid_t clock, timespec* time) {
  static auto* const real = Real<int(clockid_t, timespec*)>("clock_gettime");
  const int result = real(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += Now().clock_seconds;
  return result;
}

KVLINK_IN_PLACE_OF int gettimeofday(timeval* time, void*) noexcept {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

KVLINK_IN_PLACE_OF ssize_t pread64(int file, void* bytes, size_t size, off64_t offset) {
  static auto* const real = Real<ssize_t(int, void*, size_t, off64_t)>("pread64");
  AwaitDisk();
  return real(file, bytes, size, offset);
}

KVLINK_IN_PLACE_OF ssize_t pread(int file, void* bytes, size_t size, off_t offset) {
  return pread64(file, bytes, size, offset);
}

KVLINK_IN_PLACE_OF ssize_t pwrite64(int file, const void* bytes, size_t size, off64_t offset) {
  static auto* const real = Real<ssize_t(int, const void*, size_t, off64_t)>("pwrite64");
  AwaitDisk();
  return real(file, bytes, size, offset);
}

KVLINK_IN_PLACE_OF ssize_t pwrite(int file, const void* bytes, size_t size, off_t offset) {
  return pwrite64(file, bytes, size, offset);
}

KVLINK_IN_PLACE_OF int fdatasync(int file) {
  static auto* const real = Real<int(int)>("fdatasync");
  AwaitDisk();
  return real(file);
}

KVLINK_IN_PLACE_OF int fsync(int file) {
  static auto* const real = Real<int(int)>("fsync");
  AwaitDisk();
  return real(file);
}

KVLINK_IN_PLACE_OF int io_uring_wait_cqe_timeout(io_uring* ring, io_uring_cqe** completion, __kernel_timespec* time) {
  static auto* const real = Real<int(io_uring*, io_uring_cqe**, __kernel_timespec*)>("io_uring_wait_cqe_timeout");
  const int result = real(ring, completion, time);
  if (result == 0) AwaitDisk();
  return result;
}
