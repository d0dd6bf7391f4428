// Asynchronous reads and writes of segments, many in flight: io_uring with registered memory if the kernel permits it,
// otherwise a bounded pool of threads calling pread and pwrite.
//
// Thread-safety: all methods. The destructor waits for everything submitted.
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
  bool background = false;  // a read no caller waits for: it has the priority of a write
  bool first = false;       // a read that goes ahead of waiting ones: small, and needed to know what else to read
  int64_t offset = 0;
  std::byte* data = nullptr;  // in use until `done`; only read from if `write`
  int64_t length = 0;
  // Called exactly once, on an I/O thread or inside Submit; must not wait for other I/O. Errors as in file.h.
  std::function<void(const absl::Status&)> done;
};

// Maximum bytes per request. Reads in flight share the disk, so larger ones would only delay an encoding's first layer
// until its last; writes have no first layer to wait for.
inline constexpr int64_t kReadBytes = 128 << 10, kWriteBytes = 1 << 20;

class BulkIo {
 public:
  virtual ~BulkIo() = default;
  // Queues the requests and starts a bounded number at a time: reads in order, except `first`, and before writes
  // (io_queue.h).
  virtual void Submit(std::vector<IoRequest> requests) = 0;
  // Announces the memory requests will use: at most `chunks` chunks at a time, each `chunk_bytes` long and aligned to a
  // multiple of that. Requests within one chunk skip the kernel's page lookups. Call once, before the first Submit.
  virtual void DeclareMemory(int64_t chunk_bytes, int chunks) {}
  // A chunk numbered below `chunks` is present (prefaulted), until ChunkLeaves. Its pages are pinned in between. No
  // request may use it when it leaves.
  virtual void ChunkReady(int number, std::byte* data) {}
  virtual void ChunkLeaves(int number) {}
  struct Depths {
    int64_t reads_waiting = 0, reads_in_flight = 0;
    int64_t writes_waiting = 0, writes_in_flight = 0;  // including background reads
  };
  virtual Depths depths() const = 0;
  // "io_uring", or the fallback in use and why.
  virtual std::string Describe() const = 0;
};

struct BulkIoOptions {
  bool allow_uring = true;
  // 2 MiB of reads in flight keep a disk busy.
  IoLimits uring = {.all = 16, .bulk = 12, .bulk_beside_reads = 4};
  IoLimits pool = {.all = 4, .bulk = 3, .bulk_beside_reads = 1};  // one thread per request in flight
};
std::unique_ptr<BulkIo> NewBulkIo(const BulkIoOptions& options);

// How both implementations classify requests and report their queues.
inline bool IsBulk(const IoRequest& request) { return request.write || request.background; }
template <typename Item>
BulkIo::Depths DepthsOf(const IoQueue<Item>& queue) {
  return {queue.reads_waiting(), queue.reads_in_flight(), queue.bulk_waiting(), queue.bulk_in_flight()};
}

// The two implementations. NewUringIo: UNAVAILABLE, with the reason, if the kernel does not permit io_uring.
absl::StatusOr<std::unique_ptr<BulkIo>> NewUringIo(const IoLimits& limits);
std::unique_ptr<BulkIo> NewPoolIo(const IoLimits& limits, std::string reason);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_BULK_IO_H_
