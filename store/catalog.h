// The catalog: which encodings a document id of a namespace stands for. Entries are data, not cache: they stay until
// deleted, and are never evicted.
//
// Calls take many documents at a time. Each document has a status of its own; the documents of a call become durable in
// groups of up to kMaxCatalogBatch documents or kMaxCatalogBatchBytes of entries, each group with one synced write
// (and, over a node, one call). The status of the whole call is an error only where a group was not carried out: groups
// before it were.
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
  uint64_t written_at_us = 0;  // CatalogEntry
};

struct DocumentPut {
  std::string id;
  CatalogEntry entry;  // of generation 0: the store gives one
};

// How many of the first of `documents` (not empty) are one group.
size_t FirstGroup(absl::Span<const DocumentPut> documents);

struct DocumentDeletion {
  std::string id;
  uint64_t generation = 0;  // 0: the store gives one
};

struct NamespaceDeletion {
  int64_t documents = 0;
  int64_t encodings = 0;
};

class DocumentCatalog {
 public:
  virtual ~DocumentCatalog() = default;

  // For each document, in order, the generation that it has now (it is durable), or why it was not put.
  // FAILED_PRECONDITION, changing nothing: a higher generation is there (of equal generations the greater serialised
  // entry stays, so that replicas agree). Documents take effect in order, so that of two with one id the second meets
  // the first. An entry of generation 0 replaces whatever is there: it gets the greater of the store's clock
  // (StoreStats::clock_us) and the document's own generation + 1; where the document is as the entry wants it already,
  // it stays, with its generation. A client that loses an answer puts such an entry again, over whatever others put
  // meanwhile: who shares documents with others names generations.
  virtual absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutDocuments(
      absl::string_view ns, absl::Span<const DocumentPut> documents) = 0;
  // One answer per id, in order. NOT_FOUND: there is none, or it was deleted. DATA_LOSS: the entry is damaged.
  virtual absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> GetDocuments(absl::string_view ns,
                                                                                 absl::Span<const std::string> ids) = 0;
  // As PutDocuments, of tombstones, with a status for each. Encodings that no document of the namespace refers to any
  // more are removed. OK if there was no such document.
  virtual absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(absl::string_view ns,
                                                                    absl::Span<const DocumentDeletion> documents) = 0;
  // Documents with id > after, in order of id, at most `limit`.
  virtual absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                                  int64_t limit) = 0;
  // Deletes a namespace for good: its documents and their tombstones, encodings (pinned ones too; bytes in use by
  // leases stay until those end), and limits. What others write to it meanwhile may be deleted or not. Needs the right
  // to administer. Every prefix of the work that an error leaves behind is consistent: call again. OK if there was
  // none.
  virtual absl::StatusOr<NamespaceDeletion> DeleteNamespace(absl::string_view ns) = 0;

  // Deletes the documents whose id begins with `prefix` (empty: all), each at its own generation or at `generation`,
  // whichever is greater. Returns how many; those that a higher generation replaced meanwhile stay.
  absl::StatusOr<int64_t> DeletePrefix(absl::string_view ns, absl::string_view prefix, uint64_t generation);

  // Of one document. The statuses of the whole call and of the document are one.
  absl::Status PutDocument(absl::string_view ns, absl::string_view id, const CatalogEntry& entry);
  absl::StatusOr<CatalogEntry> GetDocument(absl::string_view ns, absl::string_view id);
  absl::Status DeleteDocument(absl::string_view ns, absl::string_view id, uint64_t generation);

 protected:
  // DeleteDocuments, of a catalog in which a deletion is a put of a tombstone.
  absl::StatusOr<std::vector<absl::Status>> PutTombstones(absl::string_view ns,
                                                          absl::Span<const DocumentDeletion> documents);
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_CATALOG_H_
