// A catalog entry: what a document id in a namespace stands for. Data, not cache: never evicted.
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
  // The tokens the identity was computed from: re-encodes the part after an eviction, and gives linkers the tokens they
  // recompute.
  std::vector<int32_t> tokens;
  // The bytes [begin, end) of the document's text that this part covers. Both 0: unknown.
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Digest of everything that determines the parts of an entry (docs/formats.md "Content digest").
struct ContentDigest : Digest<32> {};

struct CatalogEntry {
  uint64_t generation = 0;  // a lower one never replaces a higher one; 0 in a put: the store assigns one
  bool tombstone = false;   // deleted at `generation`
  Fingerprint model;        // the model that the tokens and identities belong to
  std::string title;
  std::vector<CatalogPart> parts;  // ordered
  // When the store wrote the entry, by its own clock, in microseconds since 1970. Set by the store, which overwrites
  // the caller's value.
  uint64_t written_at_us = 0;
  // A writer that finds the digest it would write may skip the document. Nothing else is concluded from it. Empty:
  // unknown.
  ContentDigest content;
  // The context digest that the identities were computed with (docs/formats.md "Identity"), 32 bytes; empty: the
  // document was encoded alone, without a wrapper.
  std::string context_digest;
};

std::string SerializeCatalogEntry(const CatalogEntry& entry);
// Errors as ParseManifest.
absl::StatusOr<CatalogEntry> ParseCatalogEntry(absl::string_view bytes);

// Whether `entry` replaces `there` when put over it, by the rules of the catalog (docs/formats.md "Catalog entry").
// False: both say the same, and `there` is kept, also if `entry` leaves its generation to the store. Reads the contents
// of `there` only if it has the generation of `entry` or `entry`'s is 0. FAILED_PRECONDITION: `there` is greater, or
// has the last possible generation.
absl::StatusOr<bool> TakesPlace(const CatalogEntry& there, const CatalogEntry& entry);

// Limit for an entry sent over the control service, where it travels in one message (proto/store.proto).
inline constexpr int64_t kMaxEntryBytes = (int64_t{4} << 20) - 4096;

}  // namespace kvlink

#endif  // KVLINK_PROTO_CATALOG_H_
