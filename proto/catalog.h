// A catalog entry: what a document id of a namespace stands for. Data, not cache: never evicted.
// Wire format: docs/formats.md "Catalog entry" (an envelope around kvlink.proto.CatalogEntry).
// Thread-safety: a plain value.
#ifndef KVLINK_PROTO_CATALOG_H_
#define KVLINK_PROTO_CATALOG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/digest.h"

namespace kvlink {

struct CatalogPart {
  Identity identity;
  // The tokens the identity was computed from: what encodes it again after an eviction, and what linkers recompute.
  std::vector<int32_t> tokens;
};

struct CatalogEntry {
  uint64_t generation = 0;  // a lower one never replaces a higher one; 0 in a put: the store gives one
  bool tombstone = false;   // deleted at `generation`
  Fingerprint model;        // whose tokens and identities these are
  std::string title;
  std::vector<CatalogPart> parts;  // ordered
  // When the store wrote the entry, by its own clock, in microseconds since 1970. Set by the store; what a caller puts
  // here is overwritten.
  uint64_t written_at_us = 0;
};

std::string SerializeCatalogEntry(const CatalogEntry& entry);
// As ParseManifest.
absl::StatusOr<CatalogEntry> ParseCatalogEntry(absl::string_view bytes);

// Whether `entry`, put where `there` is, takes its place, by the rules of the catalog (docs/formats.md "Catalog
// entry"). False: it says the same, and `there` stays, also where `entry` leaves its generation to the store. Of
// `there` what it says need only be known where it has the generation of `entry`, or that is 0. FAILED_PRECONDITION:
// `there` is greater, or has the last generation of all.
absl::StatusOr<bool> TakesPlace(const CatalogEntry& there, const CatalogEntry& entry);

// Of an entry that goes over the control service: it travels in one message (proto/store.proto).
inline constexpr int64_t kMaxEntryBytes = (int64_t{4} << 20) - 4096;

}  // namespace kvlink

#endif  // KVLINK_PROTO_CATALOG_H_
