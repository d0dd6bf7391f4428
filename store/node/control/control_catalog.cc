#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/catalog.h"
#include "store/node/control/control_service.h"
#include "store/store.h"

namespace kvlink::store {
namespace {

constexpr int kMaxDocuments = 1024;                    // of a call
constexpr int64_t kMaxEntryBytes = int64_t{64} << 20;  // of the entries of one answer, the last aside

absl::string_view View(const std::string& text) { return {text.data(), text.size()}; }

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

// Puts all that passed the checks, in one commit.
absl::Status PutAll(engine::Engine* engine, absl::string_view ns, absl::Span<const engine::Engine::EntryPut> puts,
                    std::vector<absl::Status> checked, v1::Results* reply) {
  std::vector<engine::Engine::EntryPut> valid;
  for (size_t i = 0; i < puts.size(); ++i) {
    if (checked[i].ok()) valid.push_back(puts[i]);
  }
  KVLINK_ASSIGN_OR_RETURN(const auto statuses, engine->PutEntries(ns, valid));
  size_t next = 0;
  for (const absl::Status& status : checked) AddResult(status.ok() ? statuses[next++] : status, reply->add_results());
  return absl::OkStatus();
}

}  // namespace

grpc::Status ControlService::PutDocuments(grpc::ServerContext* context, const v1::PutDocumentsRequest* request,
                                          v1::Results* reply) {
  return Run(context, Operation::kCatalogPut, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(CheckNamespace(*session, Right::kWrite, request->ns()));
    KVLINK_RETURN_IF_ERROR(CheckBatch(request->documents_size()));
    std::vector<CatalogEntry> entries(request->documents_size());
    std::vector<engine::Engine::EntryPut> puts;
    std::vector<absl::Status> checked;
    for (const v1::Document& document : request->documents()) {
      CatalogEntry* const entry = &entries[puts.size()];
      puts.push_back({View(document.id()), entry});
      checked.push_back([&]() -> absl::Status {
        KVLINK_RETURN_IF_ERROR(ValidateName("document id", View(document.id())));
        KVLINK_ASSIGN_OR_RETURN(*entry, ParseCatalogEntry(View(document.entry())));
        return absl::OkStatus();
      }());
    }
    return PutAll(node_->engine.get(), View(request->ns()), puts, std::move(checked), reply);
  });
}

grpc::Status ControlService::GetDocuments(grpc::ServerContext* context, const v1::GetDocumentsRequest* request,
                                          v1::GetDocumentsResponse* reply) {
  return Run(context, Operation::kCatalogGet, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(CheckNamespace(*session, Right::kRead, request->ns()));
    KVLINK_RETURN_IF_ERROR(CheckBatch(request->ids_size()));
    int64_t bytes = 0;
    for (const std::string& id : request->ids()) {
      const auto get = [&]() -> absl::StatusOr<CatalogEntry> {
        KVLINK_RETURN_IF_ERROR(ValidateName("document id", View(id)));
        if (bytes > kMaxEntryBytes) {
          return absl::ResourceExhaustedError("the entries before this one fill an answer: ask for the rest again");
        }
        return node_->engine->GetEntry(View(request->ns()), View(id));
      };
      const auto entry = get();
      AddResult(entry.status(), reply->add_results());
      std::string* const out = reply->add_entries();
      if (entry.ok()) *out = SerializeCatalogEntry(*entry);
      bytes += static_cast<int64_t>(out->size());
    }
    return absl::OkStatus();
  });
}

grpc::Status ControlService::DeleteDocuments(grpc::ServerContext* context, const v1::DeleteDocumentsRequest* request,
                                             v1::Results* reply) {
  return Run(context, Operation::kCatalogDelete, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(CheckNamespace(*session, Right::kWrite, request->ns()));
    KVLINK_RETURN_IF_ERROR(CheckBatch(request->documents_size()));
    std::vector<CatalogEntry> tombstones(request->documents_size());
    std::vector<engine::Engine::EntryPut> puts;
    std::vector<absl::Status> checked;
    for (const v1::DeletedDocument& document : request->documents()) {
      CatalogEntry* const tombstone = &tombstones[puts.size()];
      tombstone->generation = document.generation();
      tombstone->tombstone = true;
      puts.push_back({View(document.id()), tombstone});
      checked.push_back(ValidateName("document id", View(document.id())));
    }
    return PutAll(node_->engine.get(), View(request->ns()), puts, std::move(checked), reply);
  });
}

grpc::Status ControlService::ListDocuments(grpc::ServerContext* context, const v1::ListDocumentsRequest* request,
                                           v1::ListDocumentsResponse* reply) {
  return Run(context, Operation::kCatalogList, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(CheckNamespace(*session, Right::kRead, request->ns()));
    const int64_t limit = std::min<int64_t>(request->limit(), kMaxDocuments);
    KVLINK_ASSIGN_OR_RETURN(const auto documents,
                            node_->engine->ListEntries(View(request->ns()), View(request->after()), limit));
    for (const engine::Engine::Document& document : documents) {
      v1::DocumentInfo* const info = reply->add_documents();
      info->set_id(document.id);
      info->set_generation(document.entry.generation);
      info->set_title(document.entry.title);
      int64_t tokens = 0;
      for (const CatalogPart& part : document.entry.parts) tokens += static_cast<int64_t>(part.tokens.size());
      info->set_tokens(tokens);
    }
    return absl::OkStatus();
  });
}

}  // namespace kvlink::store
