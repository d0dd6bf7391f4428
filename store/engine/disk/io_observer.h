// The seam through which all of the store's I/O passes, RocksDB's included. It sees every change to a file and every
// flush, in order. Production runs without one. Tests record through it (to rebuild the states that a power loss could
// leave) and make actions fail by returning errors.
//
// Thread-safety: called from many threads; implementations lock. Lifetime: must outlive the engine it is passed to.
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

  // Called before bytes are written at `offset`. An error is returned to the writer, and nothing is written. The value
  // identifies the write to WriteEnded, which is called once the operating system has taken the bytes.
  virtual absl::StatusOr<uint64_t> WriteStarted(const std::string& path, int64_t offset,
                                                absl::Span<const std::byte> bytes) = 0;
  virtual void WriteEnded(uint64_t write) = 0;
  // Called around fdatasync of a file or fsync of a directory: all writes that ended before SyncStarted are durable
  // once SyncEnded is called (it is not called if the flush failed).
  virtual absl::StatusOr<uint64_t> SyncStarted(const std::string& path) = 0;
  virtual void SyncEnded(uint64_t sync) = 0;
  // Called before a file is opened or created. An error is returned to the caller that opens it.
  virtual absl::Status OpenStarted(const std::string& path, bool write) { return absl::OkStatus(); }
  // Called before bytes are read.
  virtual absl::Status ReadStarted(const std::string& path, int64_t offset, int64_t length) { return absl::OkStatus(); }
  // Called after the action. If a created file existed before, it is now empty.
  virtual void Created(const std::string& path) = 0;
  virtual void Resized(const std::string& path, int64_t size) = 0;
  virtual void Renamed(const std::string& from, const std::string& to) = 0;
  virtual void Removed(const std::string& path) = 0;
  virtual void DirectoryCreated(const std::string& path) = 0;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_IO_OBSERVER_H_
