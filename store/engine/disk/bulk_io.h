// Reads and writes of segments, many in flight: io_uring with registered memory where the kernel permits it, else a
// bounded pool of threads doing pread and pwrite.
//
// Thread-safety: all methods from many threads. Destruction waits for everything submitted.
#ifndef KVLINK_STORE_ENGINE_DISK_BULK_IO_H_
#define KVLINK_STORE_ENGINE_DISK_BULK_IO_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "store/engine/disk/file.h"
#include "store/engine/disk/io_queue.h"

namespace kvlink::engine {

struct IoRequest {
  std::shared_ptr<File> file;
  bool write = false;
  bool background = false;  // a read that nobody waits for: it has the priority of a write
  bool first = false;       // a read that goes before those that wait: small, and it says what else to read
  int64_t offset = 0;
  std::byte* data = nullptr;  // in use until `done`; only read if `write`
  int64_t length = 0;
  // Called exactly once, on a thread of the I/O or inside Submit; must not wait for other I/O. Errors as in file.h.
  std::function<void(const absl::Status&)> done;
};

// Most bytes of one request. Reads that are in flight share the disk, so larger ones only make the first layer of an
// encoding come with the last of them; writes have no first layer.
inline constexpr int64_t kReadBytes = 128 << 10, kWriteBytes = 1 << 20;

class BulkIo {
 public:
  virtual ~BulkIo() = default;
  // Starts the requests, at most a bounded number at a time: reads in their order, but for `first`, and before writes
  // (io_queue.h).
  virtual void Submit(std::vector<IoRequest> requests) = 0;
  // Announces memory that requests will use: at most `chunks` chunks at a time, each beginning on a multiple of
  // `chunk_bytes` and of that length. Requests within one chunk skip the kernel's page lookups. Once, before the first
  // Submit.
  virtual void DeclareMemory(int64_t chunk_bytes, int chunks) {}
  // A chunk is there (prefaulted) under a number below `chunks`, until ChunkLeaves: its pages are pinned, and no
  // request uses it when it leaves.
  virtual void ChunkReady(int number, std::byte* data) {}
  virtual void ChunkLeaves(int number) {}
  struct Depths {
    int64_t reads_waiting = 0, reads_in_flight = 0;
    int64_t writes_waiting = 0, writes_in_flight = 0;  // and background reads
  };
  virtual Depths depths() const = 0;
  // "io_uring", or what serves instead and why.
  virtual std::string Describe() const = 0;
};

struct BulkIoOptions {
  bool allow_uring = true;
  // 2 MiB of reads in flight keep a disk busy.
  IoLimits uring = {.all = 16, .bulk = 12, .bulk_beside_reads = 4};
  IoLimits pool = {.all = 4, .bulk = 3, .bulk_beside_reads = 1};  // a thread for each request in flight
};
std::unique_ptr<BulkIo> NewBulkIo(const BulkIoOptions& options);

// How both sort a request, and tell of their queue.
inline bool IsBulk(const IoRequest& request) { return request.write || request.background; }
template <typename Item>
BulkIo::Depths DepthsOf(const IoQueue<Item>& queue) {
  return {queue.reads_waiting(), queue.reads_in_flight(), queue.bulk_waiting(), queue.bulk_in_flight()};
}

// The two behind it. NewUringIo: UNAVAILABLE with the reason if the kernel does not permit io_uring.
absl::StatusOr<std::unique_ptr<BulkIo>> NewUringIo(const IoLimits& limits);
std::unique_ptr<BulkIo> NewPoolIo(const IoLimits& limits, std::string reason);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_BULK_IO_H_
