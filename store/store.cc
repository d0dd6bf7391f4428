// Name validation, and what the interfaces build from their own virtual methods: single documents from batches,
// deletion by prefix from listing and deleting, reads of many from single reads.
#include "store/store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/utf8.h"

namespace kvlink::store {

std::vector<absl::StatusOr<std::unique_ptr<Lease>>> EncodingStore::ReadMany(DeviceBuffer* receive, absl::string_view ns,
                                                                            Codec codec,
                                                                            absl::Span<const ReadRequest> requests,
                                                                            absl::Time deadline) {
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> leases;
  for (const ReadRequest& one : requests) {
    leases.push_back(ReadTo(receive, ns, one.identity, codec, one.etag, deadline));
  }
  return leases;
}

size_t FirstGroup(absl::Span<const DocumentPut> documents) {
  size_t size = 0;
  int64_t bytes = 0;
  for (const DocumentPut& one : documents.subspan(0, kMaxCatalogBatch)) {
    for (const CatalogPart& part : one.entry.parts) bytes += static_cast<int64_t>(4 * part.tokens.size());
    if (size > 0 && bytes > kMaxCatalogBatchBytes) break;
    ++size;
  }
  return size;
}

absl::Status DocumentCatalog::PutDocument(absl::string_view ns, absl::string_view id, const CatalogEntry& entry) {
  KVLINK_ASSIGN_OR_RETURN(const auto put, PutDocuments(ns, {DocumentPut{std::string(id), entry}}));
  return put[0].status();
}

absl::StatusOr<CatalogEntry> DocumentCatalog::GetDocument(absl::string_view ns, absl::string_view id) {
  KVLINK_ASSIGN_OR_RETURN(auto got, GetDocuments(ns, {std::string(id)}));
  return std::move(got[0]);
}

absl::Status DocumentCatalog::DeleteDocument(absl::string_view ns, absl::string_view id, uint64_t generation) {
  KVLINK_ASSIGN_OR_RETURN(const auto deleted, DeleteDocuments(ns, {DocumentDeletion{std::string(id), generation}}));
  return deleted[0];
}

absl::StatusOr<std::vector<absl::Status>> DocumentCatalog::PutTombstones(absl::string_view ns,
                                                                         absl::Span<const DocumentDeletion> documents) {
  std::vector<DocumentPut> tombstones;
  for (const DocumentDeletion& one : documents) {
    CatalogEntry tombstone;
    tombstone.generation = one.generation;
    tombstone.tombstone = true;
    tombstones.push_back({one.id, std::move(tombstone)});
  }
  KVLINK_ASSIGN_OR_RETURN(const auto put, PutDocuments(ns, tombstones));
  std::vector<absl::Status> statuses;
  for (const absl::StatusOr<uint64_t>& one : put) statuses.push_back(one.status());
  return statuses;
}

absl::StatusOr<int64_t> DocumentCatalog::DeletePrefix(absl::string_view ns, absl::string_view prefix,
                                                      uint64_t generation) {
  int64_t count = 0;
  std::vector<DocumentDeletion> deletions;
  const auto flush = [&]() -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const auto deleted, DeleteDocuments(ns, deletions));
    for (const absl::Status& status : deleted) {
      if (!status.ok() && !absl::IsFailedPrecondition(status)) return status;
      count += status.ok() ? 1 : 0;
    }
    deletions.clear();
    return absl::OkStatus();
  };
  if (!prefix.empty()) {
    // The listing begins after the prefix, which may itself be a document's id.
    const auto itself = GetDocument(ns, prefix);
    if (itself.ok()) deletions.push_back({std::string(prefix), std::max(itself->generation, generation)});
    if (!itself.ok() && !absl::IsNotFound(itself.status())) return itself.status();
  }
  std::string after(prefix);
  while (true) {
    KVLINK_ASSIGN_OR_RETURN(const std::vector<DocumentInfo> page, ListDocuments(ns, after, kMaxCatalogBatch));
    bool more = static_cast<int64_t>(page.size()) == kMaxCatalogBatch;
    for (const DocumentInfo& document : page) {
      more = more && absl::StartsWith(document.id, prefix);
      if (!absl::StartsWith(document.id, prefix)) break;
      deletions.push_back({document.id, std::max(document.generation, generation)});
    }
    if (!page.empty()) after = page.back().id;
    KVLINK_RETURN_IF_ERROR(flush());
    if (!more) return count;
  }
}

absl::Status ValidateName(absl::string_view what, absl::string_view name) {
  if (name.empty() || name.size() > 255) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has ", name.size(), " bytes; names have 1 to 255"));
  }
  if (const size_t valid = ValidUtf8Prefix(name); valid != name.size()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not valid UTF-8 at byte ", valid));
  }
  for (size_t next = 0, at = 0; at < name.size(); at = next) {
    const char32_t c = NextCharacter(name, next);
    if (c < 0x20 || (c >= 0x7f && c < 0xa0)) {  // C0, DEL, C1
      return absl::InvalidArgumentError(absl::StrCat(what, " has a control character at byte ", at));
    }
  }
  return absl::OkStatus();
}

}  // namespace kvlink::store
