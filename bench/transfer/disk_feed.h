// A file read in order into memory, for who sends it on meanwhile: io_uring with O_DIRECT, polled by the caller's
// thread.
//
// Not thread-safe. The memory outlives the object.
#ifndef KVLINK_BENCH_TRANSFER_DISK_FEED_H_
#define KVLINK_BENCH_TRANSFER_DISK_FEED_H_

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/descriptor.h"

namespace kvlink::bench {

class DiskFeed {
 public:
  // Makes a file at `path` that holds what is in `memory` now. UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<DiskFeed>> Create(const std::string& path, std::byte* memory, int64_t bytes);
  ~DiskFeed();
  DiskFeed(const DiskFeed&) = delete;
  DiskFeed& operator=(const DiskFeed&) = delete;

  // Reads [at, at + bytes) of the file to the same place in memory from now on. REQUIRES: the last one has been read.
  void Begin(int64_t at, int64_t bytes);
  // Keeps reads in flight; how many bytes are there, from the beginning on. Does not wait. UNAVAILABLE: the disk
  // failed.
  absl::StatusOr<int64_t> Poll();

 private:
  DiskFeed(Descriptor file, std::byte* memory) : file_(std::move(file)), memory_(memory) {}

  const Descriptor file_;
  std::byte* const memory_;
  io_uring ring_{};
  bool ready_ = false, registered_ = false;
  int64_t at_ = 0, bytes_ = 0;  // asked for
  int64_t next_ = 0;            // request
  int in_flight_ = 0;
  std::vector<bool> read_;  // by request
  int64_t in_order_ = 0;    // requests that are there, from the first on
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_DISK_FEED_H_
