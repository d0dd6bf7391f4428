// The catalog. A call has one result per document; an answer stays within the message limit and says where it ended.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/catalog.h"
#include "store/node/control/methods.h"
#include "store/store.h"

namespace kvlink::store::node {
namespace {

constexpr int kMaxDocuments = 1024;                    // per call
constexpr int64_t kMaxAnswerBytes = int64_t{3} << 20;  // bytes of documents in one answer
constexpr int kMaxTries = 8;                           // to delete a document that other clients keep replacing

absl::Status CheckBatch(int count) {
  if (count >= 1 && count <= kMaxDocuments) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a call names 1 to ", kMaxDocuments, " documents, and not ", count));
}

absl::Status CheckNamespace(const Session& session, Right right, const std::string& ns) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", View(ns)));
  return session.Check(right, View(ns));
}

void AddResult(const absl::Status& status, v1::Result* result) {
  result->set_code(static_cast<uint32_t>(status.code()));
  result->set_message(std::string(status.message()));
}

absl::Status Gone() { return absl::CancelledError("the call has ended"); }

}  // namespace

void ControlMethods::AddCatalog() {
  constexpr int64_t kFields = kMaxDocuments + 16;
  Add("PutDocuments", Operation::kCatalogPut, &ControlMethods::PutDocuments, kFields, 2);
  Add("GetDocuments", Operation::kCatalogGet, &ControlMethods::GetDocuments, kFields);
  Add("DeleteDocuments", Operation::kCatalogDelete, &ControlMethods::DeleteDocuments, kFields, 2);
  Add("ListDocuments", Operation::kCatalogList, &ControlMethods::ListDocuments);
  Add("DeletePrefix", Operation::kCatalogDelete, &ControlMethods::DeletePrefix);
}

absl::Status ControlMethods::PutDocuments(ControlCall* call, const v1::PutDocumentsRequest& request,
                                          v1::Results* reply) {
  KVLINK_RETURN_IF_ERROR(CheckNamespace(*call->session(), Right::kWrite, request.ns()));
  KVLINK_RETURN_IF_ERROR(CheckBatch(request.documents_size()));
  std::vector<CatalogEntry> entries(request.documents_size());
  std::vector<engine::Engine::EntryPut> puts;
  std::vector<absl::Status> checked;
  for (const v1::Document& document : request.documents()) {
    CatalogEntry* const entry = &entries[puts.size()];
    puts.push_back({View(document.id()), entry});
    checked.push_back([&]() -> absl::Status {
      KVLINK_RETURN_IF_ERROR(ValidateName("document id", View(document.id())));
      KVLINK_ASSIGN_OR_RETURN(*entry, ParseCatalogEntry(View(document.entry())));
      return absl::OkStatus();
    }());
  }
  if (call->cancelled()) return Gone();
  KVLINK_RETURN_IF_ERROR(node_->namespaces.Admit(call->grant(), View(request.ns())));
  // The documents that passed the checks go into one commit.
  std::vector<engine::Engine::EntryPut> valid;
  for (size_t i = 0; i < puts.size(); ++i) {
    if (checked[i].ok()) valid.push_back(puts[i]);
  }
  KVLINK_ASSIGN_OR_RETURN(const auto generations, node_->engine->PutEntries(View(request.ns()), valid));
  size_t next = 0;
  for (const absl::Status& status : checked) {
    v1::Result* const result = reply->add_results();
    const absl::StatusOr<uint64_t> generation = status.ok() ? generations[next++] : status;
    AddResult(generation.status(), result);
    if (generation.ok()) result->set_generation(*generation);
  }
  return absl::OkStatus();
}

absl::Status ControlMethods::GetDocuments(ControlCall* call, const v1::GetDocumentsRequest& request,
                                          v1::GetDocumentsResponse* reply) {
  KVLINK_RETURN_IF_ERROR(CheckNamespace(*call->session(), Right::kRead, request.ns()));
  KVLINK_RETURN_IF_ERROR(CheckBatch(request.ids_size()));
  int64_t bytes = 0;
  for (const std::string& id : request.ids()) {
    const auto get = [&]() -> absl::StatusOr<std::string> {
      KVLINK_RETURN_IF_ERROR(ValidateName("document id", View(id)));
      if (call->cancelled()) return Gone();
      const absl::Status full =
          absl::ResourceExhaustedError("the entries before this one fill an answer: ask for the rest again");
      if (bytes >= kMaxAnswerBytes) return full;
      KVLINK_ASSIGN_OR_RETURN(const CatalogEntry entry, node_->engine->GetEntry(View(request.ns()), View(id)));
      std::string text = SerializeCatalogEntry(entry);
      const int64_t size = static_cast<int64_t>(text.size());
      if (size > kMaxEntryBytes) {
        return absl::OutOfRangeError(absl::StrCat("document ", View(id), ": its entry of ", size,
                                                  " bytes is longer than a node sends, which is ", kMaxEntryBytes));
      }
      if (bytes > 0 && bytes + size > kMaxAnswerBytes) {
        bytes = kMaxAnswerBytes;
        return full;
      }
      bytes += size;
      return text;
    };
    auto entry = get();
    AddResult(entry.status(), reply->add_results());
    std::string* const out = reply->add_entries();
    if (entry.ok()) *out = *std::move(entry);
  }
  return absl::OkStatus();
}

// A document replaced while it is being deleted is deleted in its new state.
absl::Status ControlMethods::DeleteOne(ControlCall* call, const std::string& ns, const v1::DeletedDocument& document) {
  KVLINK_RETURN_IF_ERROR(ValidateName("document id", View(document.id())));
  if (document.forget()) {
    KVLINK_RETURN_IF_ERROR(call->session()->Check(Right::kAdmin, View(ns)));
    return node_->engine->EraseEntry(View(ns), View(document.id()));
  }
  CatalogEntry tombstone;
  tombstone.tombstone = true;
  for (int i = 0; i < kMaxTries; ++i) {
    if (call->cancelled()) return Gone();
    KVLINK_ASSIGN_OR_RETURN(const CatalogEntry entry, node_->engine->GetEntry(View(ns), View(document.id())));
    tombstone.generation = entry.generation;
    const absl::Status put = node_->engine->PutEntry(View(ns), View(document.id()), tombstone);
    if (!absl::IsFailedPrecondition(put)) return put;
  }
  return absl::AbortedError(absl::StrCat("document ", View(document.id()), " is replaced again and again"));
}

absl::Status ControlMethods::DeleteDocuments(ControlCall* call, const v1::DeleteDocumentsRequest& request,
                                             v1::Results* reply) {
  KVLINK_RETURN_IF_ERROR(CheckNamespace(*call->session(), Right::kWrite, request.ns()));
  KVLINK_RETURN_IF_ERROR(CheckBatch(request.documents_size()));
  // Tombstones with a given generation go into one commit, the others one by one.
  std::vector<CatalogEntry> tombstones(request.documents_size());
  std::vector<engine::Engine::EntryPut> puts;
  std::vector<absl::Status> outcomes(request.documents_size());
  std::vector<int> places;
  for (int i = 0; i < request.documents_size(); ++i) {
    const v1::DeletedDocument& document = request.documents(i);
    if (document.forget() || !document.has_generation()) {
      outcomes[i] = DeleteOne(call, request.ns(), document);
      continue;
    }
    outcomes[i] = ValidateName("document id", View(document.id()));
    if (!outcomes[i].ok()) continue;
    tombstones[i].generation = document.generation();
    tombstones[i].tombstone = true;
    puts.push_back({View(document.id()), &tombstones[i]});
    places.push_back(i);
  }
  KVLINK_ASSIGN_OR_RETURN(const auto generations, node_->engine->PutEntries(View(request.ns()), puts));
  for (size_t i = 0; i < places.size(); ++i) outcomes[places[i]] = generations[i].status();
  for (const absl::Status& outcome : outcomes) AddResult(outcome, reply->add_results());
  return absl::OkStatus();
}

absl::Status ControlMethods::DeletePrefix(ControlCall* call, const v1::DeletePrefixRequest& request,
                                          v1::DeleteProgress* reply) {
  KVLINK_RETURN_IF_ERROR(CheckNamespace(*call->session(), Right::kWrite, request.ns()));
  const absl::string_view after = View(request.after()), prefix = View(request.prefix());
  KVLINK_ASSIGN_OR_RETURN(const auto ids,
                          node_->engine->ListIds(View(request.ns()), after, prefix, kMaxDocuments, /*deleted=*/false));
  for (const std::string& id : ids) {
    v1::DeletedDocument document;
    document.set_id(id);
    const absl::Status deleted = DeleteOne(call, request.ns(), document);
    if (!deleted.ok() && !absl::IsNotFound(deleted)) return deleted;
    reply->set_documents(reply->documents() + (deleted.ok() ? 1 : 0));
  }
  if (static_cast<int>(ids.size()) == kMaxDocuments) reply->set_next(ids.back());
  return absl::OkStatus();
}

absl::Status ControlMethods::ListDocuments(ControlCall* call, const v1::ListDocumentsRequest& request,
                                           v1::ListDocumentsResponse* reply) {
  KVLINK_RETURN_IF_ERROR(CheckNamespace(*call->session(), Right::kRead, request.ns()));
  const int64_t limit = std::min<int64_t>(request.limit(), kMaxDocuments);
  const absl::string_view prefix = View(request.prefix());
  KVLINK_ASSIGN_OR_RETURN(const auto ids,
                          node_->engine->ListIds(View(request.ns()), View(request.after()), prefix, limit, false));
  if (!ids.empty() && static_cast<int64_t>(ids.size()) == limit) reply->set_next(ids.back());
  int64_t bytes = 0;
  for (const std::string& id : ids) {
    if (call->cancelled()) return Gone();
    const auto entry = node_->engine->GetEntry(View(request.ns()), View(id));
    if (absl::IsNotFound(entry.status())) continue;  // deleted meanwhile
    KVLINK_RETURN_IF_ERROR(entry.status());
    v1::DocumentInfo* const info = reply->add_documents();
    info->set_id(id);
    info->set_generation(entry->generation);
    info->set_title(entry->title);
    int64_t tokens = 0;
    for (const CatalogPart& part : entry->parts) tokens += static_cast<int64_t>(part.tokens.size());
    info->set_tokens(tokens);
    info->set_written_at_us(entry->written_at_us);
    bytes += static_cast<int64_t>(id.size() + entry->title.size()) + 32;
    if (bytes < kMaxAnswerBytes) continue;
    if (id != ids.back()) reply->set_next(id);
    break;
  }
  return absl::OkStatus();
}

}  // namespace kvlink::store::node
