// Each has a member "documents", with as many entries at most as a request may have documents.
#include "worker/serve/api/documents.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/members.h"

namespace kvlink::serve {
namespace {

// The entries of `documents`; none if there are too many.
std::vector<Field> EntriesOf(const Field& documents) {
  std::vector<Field> entries = documents.List();
  if (documents.is_list() && entries.empty()) documents.Refuse("must not be empty");
  if (static_cast<int64_t>(entries.size()) <= kMaxDocuments) return entries;
  documents.Refuse(absl::StrCat("has ", entries.size(), " entries; must have at most ", kMaxDocuments));
  return {};
}

DocumentChange ReadChange(const Field& entry) {
  DocumentChange change;
  entry.RefuseOthers({"id", "title", "text", "delete"});
  change.id = entry["id"].NonEmptyText(kMaxNameBytes);
  change.deletes = entry["delete"].FlagOr(false);
  const Field title = entry["title"], text = entry["text"];
  if (change.deletes) {
    if (title.given()) title.Refuse("stands beside delete");
    if (text.given()) text.Refuse("stands beside delete");
    return change;
  }
  change.title = title.TextOr("", kMaxTitleBytes);
  change.text = text.Text();
  return change;
}

}  // namespace

absl::StatusOr<std::vector<DocumentChange>> ParseBatch(absl::string_view body) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  absl::Status error;
  const Field batch(json, &error);
  batch.RefuseOthers({"documents"});
  std::vector<DocumentChange> changes;
  for (const Field& entry : EntriesOf(batch["documents"])) changes.push_back(ReadChange(entry));
  KVLINK_RETURN_IF_ERROR(error);
  return changes;
}

absl::StatusOr<PrefetchRequest> ParsePrefetch(absl::string_view body) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  absl::Status error;
  const Field prefetch(json, &error);
  prefetch.RefuseOthers({"documents", "linker", "cache_salt"});
  PrefetchRequest request;
  for (const Field& entry : EntriesOf(prefetch["documents"])) {
    DocumentReference& document = request.documents.emplace_back();
    if (entry.is_text()) {
      document.id = entry.NonEmptyText(kMaxNameBytes);
    } else {
      document = ReadReference(entry);
    }
  }
  request.linker = prefetch["linker"].TextOr("", kMaxNameBytes);
  request.cache_salt = ReadSalt(prefetch["cache_salt"]);
  KVLINK_RETURN_IF_ERROR(error);
  return request;
}

absl::StatusOr<std::vector<std::string>> ParseDocumentIds(absl::string_view body) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  absl::Status error;
  const Field documents(json, &error);
  documents.RefuseOthers({"documents"});
  std::vector<std::string> ids;
  for (const Field& entry : EntriesOf(documents["documents"])) {
    if (!entry.is_text()) entry.RefuseOthers({"id"});
    ids.push_back((entry.is_text() ? entry : entry["id"]).NonEmptyText(kMaxNameBytes));
  }
  KVLINK_RETURN_IF_ERROR(error);
  return ids;
}

}  // namespace kvlink::serve
