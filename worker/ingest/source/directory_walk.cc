// Names of directories sort with a trailing "/", so that the order is that of whole paths. Entries that cannot be
// examined are reported, not skipped: they may be documents, and documents that the source lacks are deleted.
#include "worker/ingest/source/directory_walk.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace kvlink::ingest {

namespace fs = std::filesystem;

DirectoryWalk::DirectoryWalk(std::string top) : top_(std::move(top)) {}

absl::Status DirectoryWalk::List(const std::string& below) {
  levels_.push_back({.below = below});
  std::vector<Name>& names = levels_.back().names;
  std::error_code error;
  fs::directory_iterator walk(fs::path(top_) / below, error);
  for (; !error && walk != fs::directory_iterator(); walk.increment(error)) {
    std::string name = walk->path().filename().string();
    if (absl::StartsWith(name, ".")) continue;
    std::error_code link_error, kind_error;
    const bool link = walk->is_symlink(link_error);
    const bool folder = walk->is_directory(kind_error);
    if (kind_error == std::errc::no_such_file_or_directory && !link) continue;  // it has vanished
    if (kind_error) {
      names.push_back({std::move(name), absl::UnavailableError(absl::StrCat("cannot be read: ", kind_error.message(),
                                                                            link ? ", where the link leads" : ""))});
    } else if (folder && !link) {
      names.push_back({std::move(name) + "/", absl::OkStatus()});
    } else if (walk->is_regular_file(kind_error)) {
      names.push_back({std::move(name), absl::OkStatus()});
    }
  }
  std::sort(names.begin(), names.end(), [](const Name& a, const Name& b) { return a.name < b.name; });
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot be listed: ", error.message()));
}

std::optional<DirectoryWalk::Entry> DirectoryWalk::Next() {
  if (!std::exchange(begun_, true)) {
    if (absl::Status status = List(""); !status.ok()) return Entry{top_, "", std::move(status)};
  }
  while (!levels_.empty()) {
    Level& level = levels_.back();
    if (level.next == level.names.size()) {
      levels_.pop_back();
      continue;
    }
    Name& name = level.names[level.next++];
    const std::string below = level.below + name.name;
    if (!absl::EndsWith(below, "/")) return Entry{(fs::path(top_) / below).string(), below, std::move(name.unknown)};
    absl::Status status = List(below);
    if (status.ok()) continue;
    const std::string folder = below.substr(0, below.size() - 1);
    return Entry{(fs::path(top_) / folder).string(), folder, std::move(status)};
  }
  return std::nullopt;
}

}  // namespace kvlink::ingest
