// A store directory, except its index and segments (docs/formats.md "Store directory"): the lock, the STORE file that
// names its owner and version, the FLOOR below which the index has lost changes, and the space kept back for deleting
// on a full disk.
//
// Thread-safety: all methods. The lock is held while the object lives.
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

  // Makes the directory if `create`, locks it (shared if `read_only`) and reads the STORE file.
  // NOT_FOUND: no store and !create (or read_only). UNAVAILABLE: locked by another process. FAILED_PRECONDITION: the
  // directory holds something else, or other users may look into it and we may not change that. UNIMPLEMENTED: another
  // format version; of a store of format 1 it says to ingest again. DATA_LOSS: the STORE file is damaged.
  static absl::StatusOr<std::unique_ptr<StoreDirectory>> Open(const FileSystem& files, const std::string& path,
                                                              bool create, bool read_only);

  // Nothing for a directory whose making was never finished: there is no data in it.
  const std::optional<Identity>& identity() const { return identity_; }
  // Finishes the making, FLOOR first and STORE last; durable on return.
  absl::Status SetIdentity(const Identity& identity);

  std::string index_path() const { return path_ + "/index"; }
  std::string segments_path() const { return path_ + "/segments"; }

  // A change known to have reached the index's tables, whose log may be gone: an index that ends before it has lost
  // changes. 0 if unknown. Nor can a crash have torn what lies in MANIFEST number `manifest_number` before
  // `manifest_bytes`.
  struct Floor {
    uint64_t sequence = 0;
    uint64_t manifest_number = 0;
    int64_t manifest_bytes = 0;
  };
  // DATA_LOSS: the mark is missing from a store that is made, or damaged. UNAVAILABLE: it cannot be read now.
  // UNIMPLEMENTED: another format version.
  absl::StatusOr<Floor> GetFloor() const;
  // Only ever raises it, durably. The errors of GetFloor leave it as it is: what is damaged or missing stays so until
  // somebody who told of it calls ReplaceFloor.
  absl::Status RaiseFloor(const Floor& floor);
  absl::Status ReplaceFloor(const Floor& floor);

  // Space for the index on a full disk. Release gives it back to the file system, Restore takes it again
  // (RESOURCE_EXHAUSTED while the disk is full). Both are OK if there is nothing to do.
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
