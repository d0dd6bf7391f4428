#include "tests/support/recording_io.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "absl/status/status.h"

namespace kvlink::testing {
namespace {

constexpr int64_t kSector = 512;

std::string Parent(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

// A file's content during rebuilding: bytes written, and a size that may exceed them (zeros).
struct Content {
  std::string bytes;
  int64_t size = 0;
  bool directory = false;

  void Resize(int64_t to) {
    size = to;
    if (static_cast<int64_t>(bytes.size()) > to) bytes.resize(to);
  }
  void Put(int64_t offset, const char* data, int64_t length) {
    if (static_cast<int64_t>(bytes.size()) < offset + length) bytes.resize(offset + length);
    std::memcpy(bytes.data() + offset, data, length);
    size = std::max(size, offset + length);
  }
};
using Namespace = std::map<std::string, std::shared_ptr<Content>>;

void Remove(Namespace* names, const std::string& path) { names->erase(path); }

}  // namespace

std::string RecordingIo::Relative(const std::string& path) const {
  if (path.size() > root_.size() && path.compare(0, root_.size(), root_) == 0) return path.substr(root_.size() + 1);
  return "";
}

int64_t RecordingIo::Append(Event event) {
  MutexLock lock(&mutex_);
  event.started = now_++;
  events_.push_back(std::move(event));
  return static_cast<int64_t>(events_.size()) - 1;
}

absl::StatusOr<uint64_t> RecordingIo::WriteStarted(const std::string& path, int64_t offset,
                                                   absl::Span<const std::byte> bytes) {
  return Append({Kind::kWrite, Relative(path), "", offset,
                 std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
}

void RecordingIo::WriteEnded(uint64_t write) {
  MutexLock lock(&mutex_);
  events_[write].ended = now_++;
}

absl::StatusOr<uint64_t> RecordingIo::SyncStarted(const std::string& path) {
  return Append({Kind::kSync, Relative(path), "", 0, ""});
}

void RecordingIo::SyncFailed(const std::string& path) { Append({Kind::kSyncFailed, Relative(path), "", 0, ""}); }
void RecordingIo::SyncEnded(uint64_t sync) { WriteEnded(sync); }
void RecordingIo::Created(const std::string& path) { Append({Kind::kCreate, Relative(path), "", 0, ""}); }
void RecordingIo::Resized(const std::string& path, int64_t size) {
  Append({Kind::kResize, Relative(path), "", size, ""});
}
void RecordingIo::Renamed(const std::string& from, const std::string& to) {
  Append({Kind::kRename, Relative(from), Relative(to), 0, ""});
}
void RecordingIo::Removed(const std::string& path) { Append({Kind::kRemove, Relative(path), "", 0, ""}); }
void RecordingIo::DirectoryCreated(const std::string& path) {
  Append({Kind::kMakeDirectory, Relative(path), "", 0, ""});
}

int64_t RecordingIo::Now() const {
  MutexLock lock(&mutex_);
  return now_;
}

void RecordingIo::Rebuild(int64_t moment, uint64_t seed, const std::string& directory) const {
  std::mt19937_64 random(seed);
  const auto chance = [&random](double p) { return std::uniform_real_distribution<double>(0, 1)(random) < p; };
  // Some losses drop nearly everything unflushed, some nearly nothing.
  const double keep = std::uniform_real_distribution<double>(0, 1)(random);

  MutexLock lock(&mutex_);
  std::vector<const Event*> events;
  for (const Event& event : events_) {
    if (event.started < moment) events.push_back(&event);
  }
  const auto is_name = [](Kind kind) {
    return kind == Kind::kCreate || kind == Kind::kRename || kind == Kind::kRemove || kind == Kind::kMakeDirectory;
  };

  // Pass 1, over what really happened: the file of each write and flush, and how far each directory was flushed.
  Namespace live;
  std::map<const Event*, std::shared_ptr<Content>> file_of;
  std::map<std::string, int64_t> directory_flushed;                   // path -> start of its last flush
  std::map<std::shared_ptr<Content>, std::vector<int64_t>> flushes;   // starts of flushes that ended in time
  std::map<std::shared_ptr<Content>, std::vector<int64_t>> failures;  // moments of failed flushes
  for (const Event* event : events) {
    switch (event->kind) {
      case Kind::kCreate:
      case Kind::kMakeDirectory:
        live[event->path] = std::make_shared<Content>();
        live[event->path]->directory = event->kind == Kind::kMakeDirectory;
        file_of[event] = live[event->path];
        break;
      case Kind::kRename:
        // RocksDB's own log is written without the observer, and only renamed through it.
        if (const auto it = live.find(event->path); it != live.end()) {
          file_of[event] = live[event->to] = it->second;
          Remove(&live, event->path);
        }
        break;
      case Kind::kRemove:
        Remove(&live, event->path);
        break;
      case Kind::kSync:
        if (event->ended < moment) {
          const auto it = live.find(event->path);
          if (event->path.empty() || (it != live.end() && it->second->directory)) {
            directory_flushed[event->path] = event->started;
          } else if (it != live.end()) {
            flushes[it->second].push_back(event->started);
          }
        }
        break;
      case Kind::kSyncFailed:
        if (const auto it = live.find(event->path); it != live.end()) failures[it->second].push_back(event->started);
        break;
      case Kind::kWrite:
      case Kind::kResize:
        if (const auto it = live.find(event->path); it != live.end()) file_of[event] = it->second;
        break;
    }
  }

  // Pass 2: names; for each directory, a prefix of its changes.
  std::map<std::string, std::vector<const Event*>> changes;
  for (const Event* event : events) {
    if (is_name(event->kind)) changes[Parent(event->path)].push_back(event);
  }
  std::set<const Event*> kept;
  for (const auto& [parent, list] : changes) {
    size_t count = 0;
    const auto flushed = directory_flushed.find(parent);
    while (flushed != directory_flushed.end() && count < list.size() && list[count]->started < flushed->second) ++count;
    if (chance(keep)) count += std::uniform_int_distribution<size_t>(0, list.size() - count)(random);
    kept.insert(list.begin(), list.begin() + static_cast<int64_t>(count));
  }
  Namespace names;
  for (const Event* event : events) {
    if (!kept.contains(event)) continue;
    if (event->kind == Kind::kRemove) {
      Remove(&names, event->path);
    } else if (event->kind == Kind::kRename) {
      if (!file_of.contains(event)) continue;
      names[event->to] = file_of[event];
      Remove(&names, event->path);
    } else {
      names[event->path] = file_of[event];
    }
  }

  // Pass 3: contents.
  for (const Event* event : events) {
    const auto it = file_of.find(event);
    if (it == file_of.end() || is_name(event->kind)) continue;
    Content& content = *it->second;
    const int64_t done = event->kind == Kind::kResize ? event->started : event->ended;
    // The first flush after the change decides.
    const auto first_after = [done, &it](const auto& moments) {
      int64_t first = INT64_MAX;
      if (const auto found = moments.find(it->second); found != moments.end()) {
        for (const int64_t at : found->second) first = at > done ? std::min(first, at) : first;
      }
      return first;
    };
    const int64_t flushed = first_after(flushes);
    const bool durable = flushed != INT64_MAX && flushed < first_after(failures);
    if (event->kind == Kind::kResize) {
      if (durable || chance(keep)) content.Resize(event->offset);
      continue;
    }
    const int64_t length = static_cast<int64_t>(event->bytes.size());
    if (durable || chance(keep * 0.7)) {
      content.Put(event->offset, event->bytes.data(), length);
      continue;
    }
    // Lost or torn; the size may have grown all the same.
    if (chance(0.3)) content.size = std::max(content.size, event->offset + length);
    if (!chance(keep)) continue;
    for (int64_t at = 0; at < length;) {
      // Sectors are aligned to the file, not to the write.
      const int64_t piece = std::min(length - at, kSector - (event->offset + at) % kSector);
      if (chance(0.5)) content.Put(event->offset + at, event->bytes.data() + at, piece);
      at += piece;
    }
  }

  for (const auto& [path, content] : names) {
    // Sorted, so that directories come before their contents.
    const std::filesystem::path full = std::filesystem::path(directory) / path;
    if (!std::filesystem::exists(full.parent_path())) continue;  // its directory was lost
    if (content->directory) {
      std::filesystem::create_directory(full);
      continue;
    }
    std::ofstream(full, std::ios::binary)
        .write(content->bytes.data(), static_cast<std::streamsize>(content->bytes.size()));
    std::filesystem::resize_file(full, static_cast<uintmax_t>(content->size));
  }
}

}  // namespace kvlink::testing
