// The files below a folder, in order of their paths. Only the names of one folder at each level are in memory, however
// many files there are. Hidden files are left out, and links to folders are not followed.
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
    // UNAVAILABLE: a folder that cannot be listed, or not to its end; or nobody can say whether it is a file, because
    // the file system fails or a link leads nowhere.
    absl::Status status;
  };
  // The next regular file, or what failed (`below` is empty for the top); nullopt at the end. What vanishes meanwhile
  // is left out.
  std::optional<Entry> Next();

 private:
  struct Name {
    std::string name;      // of a folder with a "/" behind it
    absl::Status unknown;  // why nobody can say what it is
  };
  struct Level {
    std::string below;  // of the folder, with its "/"; empty for the top
    std::vector<Name> names;
    size_t next = 0;
  };
  // Goes down into a folder.
  absl::Status List(const std::string& below);

  const std::string top_;
  std::vector<Level> levels_;
  bool begun_ = false;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_DIRECTORY_WALK_H_
