// Reads a file in order into memory while the caller sends it on: io_uring with O_DIRECT, polled by the caller's
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
  // Creates a file at `path` with the current contents of `memory`. UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<DiskFeed>> Create(const std::string& path, std::byte* memory, int64_t bytes);
  ~DiskFeed();
  DiskFeed(const DiskFeed&) = delete;
  DiskFeed& operator=(const DiskFeed&) = delete;

  // Starts reading [at, at + bytes) of the file to the same place in memory. REQUIRES: the last range has been read.
  void Begin(int64_t at, int64_t bytes);
  // Keeps reads in flight; returns how many bytes have arrived, from the beginning of the range. Does not wait.
  // UNAVAILABLE: the disk failed.
  absl::StatusOr<int64_t> Poll();

 private:
  DiskFeed(Descriptor file, std::byte* memory) : file_(std::move(file)), memory_(memory) {}

  const Descriptor file_;
  std::byte* const memory_;
  io_uring ring_{};
  bool ready_ = false, registered_ = false;
  int64_t at_ = 0, bytes_ = 0;  // requested range
  int64_t next_ = 0;            // request
  int in_flight_ = 0;
  std::vector<bool> read_;  // by request
  int64_t in_order_ = 0;    // requests completed without gap from the first on
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_DISK_FEED_H_
