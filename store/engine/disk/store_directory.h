// A store directory, except its index and segments (docs/formats.md "Store directory"): the lock; the STORE file, which
// names the owner and version; the FLOOR, a change before which the index must not end; and reserved space that allows
// deletions on a full disk.
//
// Thread-safety: all methods. The lock is held as long as the object lives.
#ifndef KVLINK_STORE_ENGINE_DISK_STORE_DIRECTORY_H_
#define KVLINK_STORE_ENGINE_DISK_STORE_DIRECTORY_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "store/engine/disk/file.h"

namespace kvlink::engine {

using Uuid = std::array<uint8_t, 16>;
absl::StatusOr<Uuid> NewUuid();
std::string UuidHex(const Uuid& uuid);

class StoreDirectory {
 public:
  static constexpr int64_t kReserveBytes = int64_t{24} << 20;

  struct Identity {
    Uuid uuid{};
    int64_t segment_bytes = 0;
  };

  // Creates the directory if `create`, locks it (shared if `read_only`) and reads the STORE file. NOT_FOUND: no store,
  // and !create or read_only. UNAVAILABLE: locked by another process. FAILED_PRECONDITION: the directory holds
  // something else, or other users may access it and we cannot change that. UNIMPLEMENTED: another format version; for
  // format 1 the message says to ingest again. DATA_LOSS: the STORE file is damaged.
  static absl::StatusOr<std::unique_ptr<StoreDirectory>> Open(const FileSystem& files, const std::string& path,
                                                              bool create, bool read_only);

  // nullopt if the creation of the directory was never completed; it then holds no data.
  const std::optional<Identity>& identity() const { return identity_; }
  // Completes the creation, writing FLOOR first and STORE last; durable on return.
  absl::Status SetIdentity(const Identity& identity);

  std::string index_path() const { return path_ + "/index"; }
  std::string segments_path() const { return path_ + "/segments"; }

  // A change known to have reached the index's tables, whose log may therefore be gone: an index that ends before it
  // has lost changes. 0 if unknown. Likewise, no crash can have torn the first `manifest_bytes` of MANIFEST number
  // `manifest_number`.
  struct Floor {
    uint64_t sequence = 0;
    uint64_t manifest_number = 0;
    int64_t manifest_bytes = 0;
  };
  // DATA_LOSS: the floor is missing from a completed store, or damaged. UNAVAILABLE: it cannot be read now.
  // UNIMPLEMENTED: another format version.
  absl::StatusOr<Floor> GetFloor() const;
  // Durably raises the floor; never lowers it. On the errors of GetFloor it changes nothing: a damaged or missing floor
  // stays that way until the damage has been reported and the caller uses ReplaceFloor.
  absl::Status RaiseFloor(const Floor& floor);
  absl::Status ReplaceFloor(const Floor& floor);

  // Space reserved for the index on a full disk. Release returns it to the file system; Restore takes it back
  // (RESOURCE_EXHAUSTED while the disk is full). Both return OK if there is nothing to do.
  absl::Status ReleaseReserve();
  absl::Status RestoreReserve();

 private:
  StoreDirectory(const FileSystem& files, std::string path) : files_(files), path_(std::move(path)) {}
  absl::Status Lock(bool read_only);
  absl::Status ReadIdentity();
  absl::Status CheckForeign() const;
  absl::Status WriteFloor(const Floor& floor) ABSL_EXCLUSIVE_LOCKS_REQUIRED(floor_mutex_);

  const FileSystem files_;
  const std::string path_;
  Descriptor lock_;
  std::optional<Identity> identity_;
  Mutex reserve_mutex_;
  Mutex floor_mutex_;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_STORE_DIRECTORY_H_
