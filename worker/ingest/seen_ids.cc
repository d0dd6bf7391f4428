// Runs are not merged: searching one is a binary search over pages that the kernel caches while it has room, and a
// hundred million ids make 25 runs.
#include "worker/ingest/seen_ids.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/ingest/source/shard.h"

namespace kvlink::ingest {

SeenIds::~SeenIds() {
  if (mapped_ != nullptr) munmap(const_cast<uint64_t*>(mapped_), runs_ * run_ * sizeof(uint64_t));
  if (file_ >= 0) close(file_);
}

absl::Status SeenIds::Fail(absl::string_view what) const {
  const int error = errno;
  const std::string message = absl::StrCat(folder_, ": ", what, " (", std::strerror(error),
                                           "); the ids of the corpus need 8 bytes each in $TMPDIR for --prune");
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

absl::Status SeenIds::Add(absl::string_view id) {
  if (recent_.size() == run_) KVLINK_RETURN_IF_ERROR(Spill());
  recent_.push_back(IdHash(id));
  return absl::OkStatus();
}

absl::Status SeenIds::Spill() {
  if (file_ < 0) {
    std::error_code error;
    folder_ = std::filesystem::temp_directory_path(error).string();
    if (error)
      return absl::UnavailableError(absl::StrCat("$TMPDIR names no folder for temporary files: ", error.message()));
    std::string path = absl::StrCat(folder_, "/kvlink-seen-XXXXXX");
    file_ = mkostemp(path.data(), O_CLOEXEC);
    if (file_ < 0) return Fail("no temporary file can be made");
    unlink(path.c_str());
  }
  std::sort(recent_.begin(), recent_.end());
  const char* data = reinterpret_cast<const char*>(recent_.data());
  for (size_t left = recent_.size() * sizeof(uint64_t); left > 0;) {
    const ssize_t written = write(file_, data, left);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Fail("a temporary file cannot be written");
    data += written;
    left -= static_cast<size_t>(written);
  }
  ++runs_;
  recent_.clear();
  return absl::OkStatus();
}

absl::Status SeenIds::Finish() {
  std::sort(recent_.begin(), recent_.end());
  if (runs_ == 0 || mapped_ != nullptr) return absl::OkStatus();
  void* const mapped = mmap(nullptr, runs_ * run_ * sizeof(uint64_t), PROT_READ, MAP_SHARED, file_, 0);
  if (mapped == MAP_FAILED) return Fail("a temporary file cannot be mapped");
  mapped_ = static_cast<const uint64_t*>(mapped);
  return absl::OkStatus();
}

bool SeenIds::Contains(absl::string_view id) const {
  const uint64_t hash = IdHash(id);
  if (std::binary_search(recent_.begin(), recent_.end(), hash)) return true;
  for (size_t i = 0; i < runs_; ++i) {
    if (std::binary_search(mapped_ + i * run_, mapped_ + (i + 1) * run_, hash)) return true;
  }
  return false;
}

}  // namespace kvlink::ingest
