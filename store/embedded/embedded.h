// The engine behind the Store interface, in this process. One process may hold a store directory at a time.
// Thread-safety and errors: store.h.
#ifndef KVLINK_STORE_EMBEDDED_EMBEDDED_H_
#define KVLINK_STORE_EMBEDDED_EMBEDDED_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "store/store.h"

namespace kvlink::store {

struct EmbeddedOptions {
  bool create = true;                     // make the directory and the store if they are not there
  int64_t dram_bytes = int64_t{1} << 30;  // DRAM tier
  // Most bytes of segment files, which the store remembers; 0: as remembered, 64 GiB of a new store.
  int64_t capacity_bytes = 0;
  // Most bytes of segment files that the pinned encodings of one namespace may occupy, in whole blocks of 64 KiB; none
  // given: half of the capacity.
  std::optional<int64_t> pinned_bytes;
  bool read_only = false;
  bool drop_missing = false;  // forget the encodings of segment files that are missing, instead of FAILED_PRECONDITION
};

// NOT_FOUND: no store there and !create. UNAVAILABLE: another process holds it (naming its pid where known).
// FAILED_PRECONDITION: the directory holds something else, or segment files that the index names are missing.
// UNIMPLEMENTED: a store of another format version, named. DATA_LOSS: the index is damaged; says what to do.
absl::StatusOr<std::unique_ptr<Store>> OpenEmbedded(const std::string& directory, const EmbeddedOptions& options);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_EMBEDDED_EMBEDDED_H_
