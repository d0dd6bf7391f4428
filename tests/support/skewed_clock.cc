// Loaded into a process by LD_PRELOAD: shifts its wall clock by KVLINK_CLOCK_SKEW seconds; steady clocks are unchanged.
// The file KVLINK_CLOCK_SKEW_FILE, if it exists, holds additional seconds and is read on each call, so that a test can
// move the clock while the process runs.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

namespace {

long Seconds(const char* text) { return text == nullptr ? 0 : std::strtol(text, nullptr, 10); }

long Skew() {
  static const long fixed = Seconds(std::getenv("KVLINK_CLOCK_SKEW"));
  static const char* const path = std::getenv("KVLINK_CLOCK_SKEW_FILE");
  if (path == nullptr) return fixed;
  char text[32] = "";
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return fixed;
  const ssize_t n = read(file, text, sizeof(text) - 1);
  close(file);
  return fixed + (n > 0 ? Seconds(text) : 0);
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, timespec* time) {
  static const auto real = reinterpret_cast<int (*)(clockid_t, timespec*)>(dlsym(RTLD_NEXT, "clock_gettime"));
  const int result = real(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += Skew();
  return result;
}

__attribute__((visibility("default"))) int gettimeofday(timeval* time, void*) noexcept {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

}  // extern "C"
