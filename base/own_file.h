// A file that one process at a time writes, to rename it when it is complete.
// Thread-safety: pure functions.
#ifndef KVLINK_BASE_OWN_FILE_H_
#define KVLINK_BASE_OWN_FILE_H_

#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using OwnFile = std::unique_ptr<std::FILE, CloseFile>;

// Opens `path` for writing by this process alone, and empties it. On a file system without locks, nothing keeps other
// processes away. FAILED_PRECONDITION, with `busy` as message: another process has it. Otherwise the system's error,
// naming the path.
absl::StatusOr<OwnFile> OpenOwnFile(const std::string& path, absl::string_view busy);

}  // namespace kvlink

#endif  // KVLINK_BASE_OWN_FILE_H_
