// Names of folders are sorted with a "/" behind them, so that the order is that of whole paths.
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
  std::vector<std::string>& names = levels_.back().names;
  std::error_code error;
  fs::directory_iterator walk(fs::path(top_) / below, error);
  for (; !error && walk != fs::directory_iterator(); walk.increment(error)) {
    std::string name = walk->path().filename().string();
    std::error_code kind;
    if (absl::StartsWith(name, ".")) continue;
    if (walk->is_directory(kind) && !walk->is_symlink(kind)) {
      names.push_back(std::move(name) + "/");
    } else if (walk->is_regular_file(kind)) {
      names.push_back(std::move(name));
    }
  }
  std::sort(names.begin(), names.end());
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
    const std::string below = level.below + level.names[level.next++];
    if (!absl::EndsWith(below, "/")) return Entry{(fs::path(top_) / below).string(), below, absl::OkStatus()};
    absl::Status status = List(below);
    if (status.ok()) continue;
    const std::string folder = below.substr(0, below.size() - 1);
    return Entry{(fs::path(top_) / folder).string(), folder, std::move(status)};
  }
  return std::nullopt;
}

}  // namespace kvlink::ingest
