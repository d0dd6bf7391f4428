// The files below a directory, in order of their paths. Holds only the names of one directory per level in memory,
// however many files there are. Skips hidden files, and does not follow links to directories.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_INGEST_SOURCE_DIRECTORY_WALK_H_
#define KVLINK_WORKER_INGEST_SOURCE_DIRECTORY_WALK_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace kvlink::ingest {

class DirectoryWalk {
 public:
  explicit DirectoryWalk(std::string top);

  struct Entry {
    std::string path;
    std::string below;  // the path from the top
    // UNAVAILABLE: a directory that cannot be listed completely, or an entry whose kind is unknown because the file
    // system fails or a link leads nowhere.
    absl::Status status;
  };
  // The next regular file or failure (`below` is empty for the top); nullopt at the end. Files that vanish meanwhile
  // are skipped.
  std::optional<Entry> Next();

 private:
  struct Name {
    std::string name;      // of a directory with a trailing "/"
    absl::Status unknown;  // why its kind is unknown
  };
  struct Level {
    std::string below;  // of the directory, with a trailing "/"; empty for the top
    std::vector<Name> names;
    size_t next = 0;
  };
  // Lists a directory and descends into it.
  absl::Status List(const std::string& below);

  const std::string top_;
  std::vector<Level> levels_;
  bool begun_ = false;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_DIRECTORY_WALK_H_
