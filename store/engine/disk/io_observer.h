// The seam all of the store's I/O passes, RocksDB's included: told of every change to a file and every flush, in the
// order in which they happen. Production runs without one. Tests record through it (and rebuild the states a power loss
// could leave), and make actions fail by returning an error.
//
// Thread-safety: called from many threads, implementations lock. The observer outlives the engine it was given to.
#ifndef KVLINK_STORE_ENGINE_DISK_IO_OBSERVER_H_
#define KVLINK_STORE_ENGINE_DISK_IO_OBSERVER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvlink::engine {

class IoObserver {
 public:
  virtual ~IoObserver() = default;

  // Before bytes are written at `offset`. An error is returned to whoever writes, and nothing is written. The value
  // names the write for WriteEnded, which is called when the operating system has taken the bytes.
  virtual absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t offset,
                                                absl::Span<const std::byte> bytes) = 0;
  virtual void WriteEnded(uint64_t write) = 0;
  // Around fdatasync of a file or fsync of a directory: what ended before SyncStarted is durable once SyncEnded is
  // called (which it is not if the flush failed).
  virtual absl::StatusOr<uint64_t> SyncStarted(const std::string& path) = 0;
  virtual void SyncEnded(uint64_t sync) = 0;
  // Before a file is opened or created. An error is returned to whoever opens it.
  virtual absl::Status OpenStarted(const std::string& path, bool write) { return absl::OkStatus(); }
  // Before bytes are read.
  virtual absl::Status ReadStarted(const std::string& path, int64_t offset, int64_t length) { return absl::OkStatus(); }
  // After the action. A created file that existed before is now empty.
  virtual void Created(const std::string& path) = 0;
  virtual void Resized(const std::string& path, int64_t size) = 0;
  virtual void Renamed(const std::string& from, const std::string& to) = 0;
  virtual void Removed(const std::string& path) = 0;
  virtual void DirectoryCreated(const std::string& path) = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_IO_OBSERVER_H_
