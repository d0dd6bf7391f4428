// The engine behind the Store interface, in this process. A store directory may be open in one process, or read-only in
// several. Thread-safety and errors: store.h.
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
  bool create = true;                     // create the directory and the store if they do not exist
  int64_t dram_bytes = int64_t{1} << 30;  // DRAM tier
  // Maximum bytes of segment files; the store remembers it. 0: as remembered, or 64 GiB for a new store.
  int64_t capacity_bytes = 0;
  // Maximum bytes of segment files that the pinned encodings of one namespace may occupy, in whole 64 KiB blocks.
  // Unset: half of the capacity.
  std::optional<int64_t> pinned_bytes;
  bool read_only = false;
  bool drop_missing = false;  // drop encodings whose segment files are missing, instead of FAILED_PRECONDITION
};

// NOT_FOUND: no store exists and !create. UNAVAILABLE: another process holds it (the message names its pid if known).
// FAILED_PRECONDITION: the directory holds something else, or segment files named by the index are missing.
// UNIMPLEMENTED: a store of another format version, which the message names. DATA_LOSS: the index is damaged; the
// message says what to do.
absl::StatusOr<std::unique_ptr<Store>> OpenEmbedded(const std::string& directory, const EmbeddedOptions& options);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_EMBEDDED_EMBEDDED_H_
