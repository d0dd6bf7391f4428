// A directory for the files of a test. Thread-safety: one thread at a time.
#ifndef KVLINK_TESTS_SUPPORT_SCRATCH_DIRECTORY_H_
#define KVLINK_TESTS_SUPPORT_SCRATCH_DIRECTORY_H_

#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace kvlink::testing {

// A directory of its own, removed with the object. Optionally in memory, so that tests do not wait for a disk.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(bool in_memory = false) {
    const char* base = std::getenv("TMPDIR");
    std::string pattern = base != nullptr ? base : "/tmp";
    if (in_memory && std::filesystem::exists("/dev/shm")) pattern = "/dev/shm";
    pattern += "/kvlink_store_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_SCRATCH_DIRECTORY_H_
