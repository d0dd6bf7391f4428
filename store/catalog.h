// The catalog: maps a document id in a namespace to its encodings. Entries are data, not cache: they stay until deleted
// and are never evicted.
//
// Each call takes many documents and returns a status for each. The documents of a call become durable in groups of up
// to kMaxCatalogBatch documents or kMaxCatalogBatchBytes of entries, each group in one synced write (and, over a node,
// one call). The call as a whole returns an error only if some group was not carried out; the groups before it were.
//
// Thread-safety: all methods. Errors common to all: INVALID_ARGUMENT (a malformed name: nothing was changed),
// DEADLINE_EXCEEDED, UNAVAILABLE (the store is closing or cannot be reached).
#ifndef KVLINK_STORE_CATALOG_H_
#define KVLINK_STORE_CATALOG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/catalog.h"

namespace kvlink::store {

inline constexpr int64_t kMaxCatalogBatch = 1024;
inline constexpr int64_t kMaxCatalogBatchBytes = int64_t{3} << 20;

struct DocumentInfo {
  std::string id;
  uint64_t generation = 0;
  std::string title;
  int64_t tokens = 0;
  uint64_t written_at_us = 0;  // as CatalogEntry
};

struct DocumentPut {
  std::string id;
  CatalogEntry entry;  // generation 0: the store assigns one
};

// Returns how many leading `documents` form one group. REQUIRES: `documents` is not empty.
size_t FirstGroup(absl::Span<const DocumentPut> documents);

struct DocumentDeletion {
  std::string id;
  uint64_t generation = 0;  // 0: the store assigns one
};

struct NamespaceDeletion {
  int64_t documents = 0;
  int64_t encodings = 0;
};

class DocumentCatalog {
 public:
  virtual ~DocumentCatalog() = default;

  // Returns, for each document in order, its generation now that it is durable, or why it was not written.
  // FAILED_PRECONDITION, with nothing changed: a higher generation is stored. (Of two entries with the same generation
  // the greater serialised one wins, so that replicas agree.) Documents take effect in order: if two have the same id,
  // the second is applied on top of the first.
  //
  // An entry with generation 0 replaces whatever is stored: it gets the greater of the store's clock
  // (StoreStats::clock_us) and the stored generation + 1. If the stored document already has the same contents, it is
  // kept with its generation. A client that loses an answer puts such an entry again, over whatever other clients have
  // put meanwhile, so clients that share documents must assign generations themselves.
  virtual absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutDocuments(
      absl::string_view ns, absl::Span<const DocumentPut> documents) = 0;
  // Returns one answer per id, in order. NOT_FOUND: no such document, or it was deleted. DATA_LOSS: the entry is
  // damaged.
  virtual absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> GetDocuments(absl::string_view ns,
                                                                                 absl::Span<const std::string> ids) = 0;
  // Like PutDocuments, but puts tombstones, and returns a status for each. Encodings that no document of the namespace
  // refers to any longer are removed. OK if there was no such document.
  virtual absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(absl::string_view ns,
                                                                    absl::Span<const DocumentDeletion> documents) = 0;
  // Lists at most `limit` documents with id > `after`, ordered by id.
  virtual absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                                  int64_t limit) = 0;
  // Deletes a namespace permanently: its documents and their tombstones, its encodings (including pinned ones; leased
  // bytes stay until the leases end), and its limits. Concurrent writes to it may or may not be deleted. Requires
  // administrator rights. Work left incomplete by an error is in a consistent state; call again to continue. OK if the
  // namespace does not exist.
  virtual absl::StatusOr<NamespaceDeletion> DeleteNamespace(absl::string_view ns) = 0;

  // Deletes the documents whose id begins with `prefix` (empty: all), each at the greater of its own generation and
  // `generation`. Returns the number deleted; documents replaced meanwhile at a higher generation stay.
  absl::StatusOr<int64_t> DeletePrefix(absl::string_view ns, absl::string_view prefix, uint64_t generation);

  // Single-document forms. They return the status of the call or, if that is OK, of the document.
  absl::Status PutDocument(absl::string_view ns, absl::string_view id, const CatalogEntry& entry);
  absl::StatusOr<CatalogEntry> GetDocument(absl::string_view ns, absl::string_view id);
  absl::Status DeleteDocument(absl::string_view ns, absl::string_view id, uint64_t generation);

 protected:
  // Implements DeleteDocuments for catalogs where a deletion is the put of a tombstone.
  absl::StatusOr<std::vector<absl::Status>> PutTombstones(absl::string_view ns,
                                                          absl::Span<const DocumentDeletion> documents);
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_CATALOG_H_
