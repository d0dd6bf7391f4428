// Administration of a store: statistics, listings, verification.
//
// Thread-safety: all methods. Errors common to all: UNAVAILABLE (the store is closing or cannot be reached),
// DEADLINE_EXCEEDED.
#ifndef KVLINK_STORE_ADMIN_H_
#define KVLINK_STORE_ADMIN_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/digest.h"
#include "proto/manifest.h"

namespace kvlink::store {

struct NamespaceStats {
  std::string name;
  int64_t encodings = 0;
  int64_t bytes = 0;         // in segments
  int64_t pinned_bytes = 0;  // in segments, occupied by pinned encodings
  int64_t documents = 0;
};

struct StoreStats {
  std::vector<NamespaceStats> namespaces;
  int64_t segment_bytes = 0;       // allocated from the file system
  int64_t segment_bytes_used = 0;  // by encodings
  int64_t pinned_bytes = 0;        // across all namespaces
  int64_t dram_bytes = 0;          // DRAM tier capacity
  int64_t dram_bytes_used = 0;
  int64_t hits_dram = 0;
  int64_t hits_segments = 0;
  int64_t misses = 0;
  int64_t bytes_read = 0;              // from segments
  int64_t bytes_written = 0;           // to segments
  int64_t bytes_written_in_place = 0;  // of these, directly from the caller's memory, without a copy
  int64_t evictions = 0;
  int64_t integrity_failures = 0;
  int64_t double_claims = 0;  // encodings dropped at open because two claimed the same block
  int64_t leases = 0;
  // The store's clock, in microseconds since 1970: earlier writes have smaller times, later writes larger ones.
  uint64_t clock_us = 0;
  std::string io;  // "io_uring, O_DIRECT", or the fallback in use and why
};

struct VerifyReport {
  int64_t encodings = 0;
  int64_t bytes = 0;
  struct Damage {
    std::string ns;
    Identity identity;
    Codec codec;
    std::string what;
    std::vector<std::string> documents;  // documents of the namespace that refer to it; the first 16
  };
  std::vector<Damage> damaged;  // encodings; the store stops serving them
  std::vector<std::string> index_problems;
};

class StoreAdmin {
 public:
  virtual ~StoreAdmin() = default;

  virtual absl::StatusOr<StoreStats> Stats() = 0;
  // Lists encodings with their manifests, ordered by (namespace, identity, codec), starting after the given name. For
  // inspect and verify.
  struct Listed {
    std::string ns;
    Manifest manifest;
  };
  virtual absl::StatusOr<std::vector<Listed>> ListEncodings(absl::string_view ns, const Identity& after,
                                                            int64_t limit) = 0;
  // Reads everything back from the segments and checks it. `progress` (may be empty) is called with the bytes done and
  // the total; if it returns false, verification stops early.
  virtual absl::StatusOr<VerifyReport> Verify(std::function<bool(int64_t, int64_t)> progress) = 0;
  // Evicts everything from the DRAM tier that is not leased. For measurements.
  virtual void DropDramTier() = 0;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_ADMIN_H_
