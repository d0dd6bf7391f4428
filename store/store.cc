// Names, and what the interfaces build from their own virtual methods: single documents from batches, deletion by
// prefix from listing and deleting, reads of many from single ones.
#include "store/store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::store {
namespace {

// Length of the UTF-8 sequence at the front (Unicode 15, table 3-7), or 0 if there is none.
int SequenceLength(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(i < text.size() ? text[i] : 0); };
  const auto tail = [&](size_t i) { return byte(i) >= 0x80 && byte(i) <= 0xbf; };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const uint8_t low = first == 0xe0 ? 0xa0 : 0x80, high = first == 0xed ? 0x9f : 0xbf;
    return byte(1) >= low && byte(1) <= high && tail(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const uint8_t low = first == 0xf0 ? 0x90 : 0x80, high = first == 0xf4 ? 0x8f : 0xbf;
    return byte(1) >= low && byte(1) <= high && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

std::vector<absl::StatusOr<std::unique_ptr<Lease>>> EncodingStore::ReadMany(DeviceLanding* landing,
                                                                            absl::string_view ns, Codec codec,
                                                                            absl::Span<const ReadRequest> requests,
                                                                            absl::Time deadline) {
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> leases;
  for (const ReadRequest& one : requests) {
    leases.push_back(ReadTo(landing, ns, one.identity, codec, one.etag, deadline));
  }
  return leases;
}

absl::Status DocumentCatalog::PutDocument(absl::string_view ns, absl::string_view id, const CatalogEntry& entry) {
  KVLINK_ASSIGN_OR_RETURN(const auto put, PutDocuments(ns, {DocumentPut{std::string(id), entry}}));
  return put[0];
}

absl::StatusOr<CatalogEntry> DocumentCatalog::GetDocument(absl::string_view ns, absl::string_view id) {
  KVLINK_ASSIGN_OR_RETURN(auto got, GetDocuments(ns, {std::string(id)}));
  return std::move(got[0]);
}

absl::Status DocumentCatalog::DeleteDocument(absl::string_view ns, absl::string_view id, uint64_t generation) {
  KVLINK_ASSIGN_OR_RETURN(const auto deleted, DeleteDocuments(ns, {DocumentDeletion{std::string(id), generation}}));
  return deleted[0];
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
    // The listing begins after the prefix, which may be a document itself.
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
  for (absl::string_view rest = name; !rest.empty();) {
    const int length = SequenceLength(rest);
    if (length == 0) {
      return absl::InvalidArgumentError(absl::StrCat(what, " is no valid UTF-8 at byte ", name.size() - rest.size()));
    }
    const uint8_t first = static_cast<uint8_t>(rest[0]);
    // C0, DEL, C1.
    if (first < 0x20 || first == 0x7f || (first == 0xc2 && static_cast<uint8_t>(rest[1]) < 0xa0)) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " has a control character at byte ", name.size() - rest.size()));
    }
    rest.remove_prefix(length);
  }
  return absl::OkStatus();
}

}  // namespace kvlink::store
