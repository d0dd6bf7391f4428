// The disk without a store: io_uring with O_DIRECT and registered memory, on one file.
//
// Not thread-safe. Owns the file's descriptor, not the file.
#ifndef KVLINK_BENCH_STORE_BARE_DISK_H_
#define KVLINK_BENCH_STORE_BARE_DISK_H_

#include <liburing.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/descriptor.h"
#include "store/engine/memory/mapping.h"

namespace kvlink::bench {

class BareDisk {
 public:
  static constexpr int kDepth = 32;  // requests in flight, twice the engine's
  static constexpr int64_t kRequest = 512 << 10;

  // Creates a file of `bytes` and writes all of it, so that its extents are written ones. Transfers go through
  // `memory_bytes`, a multiple of kRequest. UNAVAILABLE: no io_uring or O_DIRECT here, or the disk is full.
  static absl::StatusOr<std::unique_ptr<BareDisk>> Create(const std::string& path, int64_t bytes, int64_t memory_bytes);
  ~BareDisk();
  BareDisk(const BareDisk&) = delete;
  BareDisk& operator=(const BareDisk&) = delete;

  // Transfers the range of the file once, in order. UNAVAILABLE: the disk failed.
  absl::Status Transfer(bool write, int64_t offset, int64_t bytes);
  absl::Status Flush();
  // Writes the whole file with `flushes` evenly spread flushes.
  absl::Status Write(int64_t flushes);
  int64_t bytes() const { return bytes_; }

 private:
  BareDisk(Descriptor fd, int64_t bytes) : fd_(std::move(fd)), bytes_(bytes) {}

  std::unique_ptr<engine::Mapping> memory_;
  const Descriptor fd_;
  const int64_t bytes_;
  int64_t slot_ = 0;  // position in memory of the next request's bytes
  io_uring ring_{};
  bool ready_ = false, registered_ = false;
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_STORE_BARE_DISK_H_
