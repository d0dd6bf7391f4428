#include "store/client/control/catalog.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"

namespace kvlink::store::client {
namespace {

constexpr int64_t kMaxListed = 1024;
using Stub = Control::Stub;

// Catalog entries and listings may be large.
absl::Time DeadlineFor(absl::Duration timeout, int64_t bytes) {
  return SteadyNow() + timeout + absl::Seconds(bytes >> 24);
}

absl::Status StatusOf(const v1::Result& result) {
  return absl::Status(static_cast<absl::StatusCode>(result.code()), result.message());
}

template <typename Response>
absl::Status CheckCount(const Response& response, int asked) {
  if (response.results_size() == asked) return absl::OkStatus();
  return absl::UnavailableError("the node answered about other documents");
}

int64_t ValueOf(const v1::StatsResponse& response, const char* name) {
  const auto found = response.values().find(name);
  return found == response.values().end() ? 0 : found->second;
}

}  // namespace

absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> Catalog::Put(absl::string_view ns,
                                                                   absl::Span<const DocumentPut> documents) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  for (const DocumentPut& one : documents) KVLINK_RETURN_IF_ERROR(ValidateName("document id", one.id));
  std::vector<absl::StatusOr<uint64_t>> generations;
  for (size_t next = 0; next < documents.size();) {
    v1::PutDocumentsRequest request;
    request.set_ns(std::string(ns));
    int64_t bytes = 0;
    for (; next < documents.size() && request.documents_size() < kMaxCatalogBatch; ++next) {
      std::string entry = SerializeCatalogEntry(documents[next].entry);
      if (static_cast<int64_t>(entry.size()) > kMaxEntryBytes) {
        return absl::InvalidArgumentError(absl::StrCat("document ", documents[next].id, ": its entry of ", entry.size(),
                                                       " bytes is longer than a node takes, which is ", kMaxEntryBytes,
                                                       "; split the document"));
      }
      const int64_t more = static_cast<int64_t>(entry.size() + documents[next].id.size());
      if (bytes > 0 && bytes + more > kMaxCatalogBatchBytes) break;
      bytes += more;
      v1::Document* const document = request.add_documents();
      document->set_id(documents[next].id);
      document->set_entry(std::move(entry));
    }
    v1::Results response;
    KVLINK_RETURN_IF_ERROR(control_->Call(&Stub::PutDocuments, request, &response, DeadlineFor(timeout_, 16 * bytes)));
    KVLINK_RETURN_IF_ERROR(CheckCount(response, request.documents_size()));
    for (const v1::Result& result : response.results()) {
      const absl::Status status = StatusOf(result);
      generations.push_back(status.ok() ? absl::StatusOr<uint64_t>(result.generation()) : status);
    }
  }
  return generations;
}

absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> Catalog::Get(absl::string_view ns,
                                                                       absl::Span<const std::string> ids) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  for (const std::string& id : ids) KVLINK_RETURN_IF_ERROR(ValidateName("document id", id));
  std::vector<absl::StatusOr<CatalogEntry>> entries;
  while (entries.size() < ids.size()) {
    v1::GetDocumentsRequest request;
    request.set_ns(std::string(ns));
    for (const std::string& id : ids.subspan(entries.size(), kMaxCatalogBatch)) request.add_ids(id);
    v1::GetDocumentsResponse response;
    KVLINK_RETURN_IF_ERROR(control_->Call(&Stub::GetDocuments, request, &response, DeadlineFor(timeout_, 64 << 20)));
    KVLINK_RETURN_IF_ERROR(CheckCount(response, request.ids_size()));
    if (response.entries_size() != request.ids_size()) {
      return absl::UnavailableError("the node answered about other documents");
    }
    for (int i = 0; i < request.ids_size(); ++i) {
      // Large entries may fill an answer before all are in it; the rest is requested again. At least one is always
      // there.
      const absl::Status status = StatusOf(response.results(i));
      if (absl::IsResourceExhausted(status) && i > 0) break;
      entries.push_back(status.ok() ? ParseCatalogEntry(response.entries(i)) : status);
    }
  }
  return entries;
}

absl::StatusOr<std::vector<absl::Status>> Catalog::Delete(absl::string_view ns,
                                                          absl::Span<const DocumentDeletion> documents) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  for (const DocumentDeletion& one : documents) KVLINK_RETURN_IF_ERROR(ValidateName("document id", one.id));
  std::vector<absl::Status> statuses;
  for (size_t begin = 0; begin < documents.size(); begin += kMaxCatalogBatch) {
    v1::DeleteDocumentsRequest request;
    request.set_ns(std::string(ns));
    for (const DocumentDeletion& one : documents.subspan(begin, kMaxCatalogBatch)) {
      v1::DeletedDocument* const document = request.add_documents();
      document->set_id(one.id);
      document->set_generation(one.generation);
    }
    v1::Results response;
    KVLINK_RETURN_IF_ERROR(control_->Call(&Stub::DeleteDocuments, request, &response, DeadlineFor(timeout_, 64 << 20)));
    KVLINK_RETURN_IF_ERROR(CheckCount(response, request.documents_size()));
    for (const v1::Result& result : response.results()) statuses.push_back(StatusOf(result));
  }
  return statuses;
}

absl::StatusOr<NamespaceDeletion> Catalog::DeleteNamespace(absl::string_view ns) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  v1::DeleteNamespaceRequest request;
  request.set_name(std::string(ns));
  NamespaceDeletion deleted;
  while (true) {
    v1::DeleteProgress progress;
    KVLINK_RETURN_IF_ERROR(
        control_->Call(&Stub::DeleteNamespace, request, &progress, DeadlineFor(timeout_, int64_t{1} << 30)));
    deleted.documents += progress.documents();
    deleted.encodings += progress.encodings();
    if (progress.next().empty()) return deleted;
    request.set_after(progress.next());
  }
}

absl::StatusOr<std::vector<DocumentInfo>> Catalog::List(absl::string_view ns, absl::string_view after, int64_t limit) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  std::vector<DocumentInfo> documents;
  v1::ListDocumentsRequest request;
  request.set_ns(std::string(ns));
  request.set_after(std::string(after));
  while (static_cast<int64_t>(documents.size()) < limit) {
    const int64_t page = std::min(kMaxListed, limit - static_cast<int64_t>(documents.size()));
    request.set_limit(static_cast<uint32_t>(page));
    v1::ListDocumentsResponse response;
    KVLINK_RETURN_IF_ERROR(control_->Call(&Stub::ListDocuments, request, &response, DeadlineFor(timeout_, 0)));
    for (const v1::DocumentInfo& one : response.documents()) {
      documents.push_back({one.id(), one.generation(), one.title(), one.tokens(), one.written_at_us()});
    }
    // The node ends a page early if titles are long, and a page of documents deleted meanwhile is empty.
    if (response.next().empty()) break;
    request.set_after(response.next());
  }
  return documents;
}

absl::StatusOr<std::vector<Store::Listed>> Catalog::ListEncodings(absl::string_view ns, const Identity& after,
                                                                  int64_t limit) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  std::vector<Store::Listed> listed;
  v1::ListEncodingsRequest request;
  request.set_ns(std::string(ns));
  request.set_after(std::string(BytesOf(after)));
  while (static_cast<int64_t>(listed.size()) < limit) {
    const int64_t page = std::min(kMaxListed, limit - static_cast<int64_t>(listed.size()));
    request.set_limit(static_cast<uint32_t>(page));
    v1::ListEncodingsResponse response;
    KVLINK_RETURN_IF_ERROR(control_->Call(&Stub::ListEncodings, request, &response, DeadlineFor(timeout_, 64 << 20)));
    for (const std::string& bytes : response.manifests()) {
      KVLINK_ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(bytes));
      listed.push_back({std::string(ns), std::move(manifest)});
    }
    // The node ends a page early if manifests are large, so only an empty page is the last.
    if (response.manifests_size() == 0) break;
    request.set_after(std::string(BytesOf(listed.back().manifest.identity)));
  }
  return listed;
}

absl::StatusOr<StoreStats> Catalog::Stats() {
  v1::StatsResponse response;
  KVLINK_RETURN_IF_ERROR(control_->Call(&Stub::Stats, v1::StatsRequest(), &response, DeadlineFor(timeout_, 0)));
  StoreStats stats;
  for (const v1::NamespaceStats& ns : response.namespaces()) {
    stats.namespaces.push_back({ns.settings().name(), ns.encodings(), ns.bytes(), ns.pinned_bytes(), ns.documents()});
  }
  stats.segment_bytes = ValueOf(response, "segment_bytes");
  stats.segment_bytes_used = ValueOf(response, "segment_bytes_used");
  stats.pinned_bytes = ValueOf(response, "pinned_bytes");
  stats.dram_bytes = ValueOf(response, "dram_bytes");
  stats.dram_bytes_used = ValueOf(response, "dram_bytes_used");
  stats.hits_dram = ValueOf(response, "hits_dram");
  stats.hits_segments = ValueOf(response, "hits_segments");
  stats.misses = ValueOf(response, "misses");
  stats.bytes_read = ValueOf(response, "bytes_read");
  stats.bytes_written = ValueOf(response, "bytes_written");
  stats.bytes_written_in_place = ValueOf(response, "bytes_written_in_place");
  stats.evictions = ValueOf(response, "evictions");
  stats.integrity_failures = ValueOf(response, "integrity_failures");
  stats.double_claims = ValueOf(response, "double_claims");
  stats.leases = ValueOf(response, "leases");
  stats.clock_us = static_cast<uint64_t>(ValueOf(response, "clock_us"));
  const auto io = response.texts().find("io");
  if (io != response.texts().end()) stats.io = io->second;
  return stats;
}

absl::StatusOr<VerifyReport> Catalog::Verify(const std::function<bool(int64_t, int64_t)>& progress) {
  const auto use = control_->Use();
  KVLINK_ASSIGN_OR_RETURN(const OpenedSession session, control_->Session(DeadlineFor(timeout_, 0)));
  grpc::ClientContext context;
  control_->Prepare(&context, session.token, absl::InfiniteFuture());
  const auto reader = control_->stub()->Verify(&context, v1::VerifyRequest());
  VerifyReport report;
  v1::VerifyProgress news;
  bool stopped = false;
  while (reader->Read(&news)) {
    report.bytes = news.bytes_done();
    if (progress && !stopped && !progress(news.bytes_done(), news.bytes())) {
      stopped = true;
      context.TryCancel();
    }
    if (!news.finished()) continue;
    report.encodings = news.encodings();
    for (const v1::Damage& damage : news.damaged()) {
      report.damaged.push_back({damage.ns(),
                                ToIdentity(damage.identity()),
                                static_cast<Codec>(damage.codec()),
                                damage.what(),
                                {damage.documents().begin(), damage.documents().end()}});
    }
    report.index_problems.assign(news.index_problems().begin(), news.index_problems().end());
  }
  const grpc::Status status = reader->Finish();
  if (stopped) return report;
  KVLINK_RETURN_IF_ERROR(control_->Outcome(status, context, session.number));
  return report;
}

void Catalog::DropDramTier() {
  v1::DropDramTierResponse response;
  // For measurements, so errors are ignored; the next call will report them.
  (void)control_->Call(&Stub::DropDramTier, v1::DropDramTierRequest(), &response, DeadlineFor(timeout_, 0));
}

}  // namespace kvlink::store::client
