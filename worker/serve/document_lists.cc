// The routes about many documents at once, and what the server keeps of them: batches, prefetches, pins, usage.
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/encode/stored_document.h"
#include "worker/serve/api/documents.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/router.h"

namespace kvlink::serve {
namespace {

absl::Status ShuttingDown() { return absl::UnavailableError("the server is shutting down"); }

absl::string_view StateName(DocumentJobs::State state) {
  switch (state) {
    case DocumentJobs::State::kDone:
      return "done";
    case DocumentJobs::State::kFailed:
      return "failed";
    case DocumentJobs::State::kCancelled:
      return "cancelled";
    default:
      return "running";
  }
}

std::string BatchJson(const std::string& id, const DocumentJobs::Progress& progress) {
  OrderedJson failures = OrderedJson::array();
  for (const DocumentJobs::Failure& failure : progress.failures) {
    failures.push_back({{"index", failure.index}, {"id", failure.id}, {"error", failure.reason}});
  }
  OrderedJson json = {{"id", id},
                      {"object", "document_batch"},
                      {"state", StateName(progress.state)},
                      {"documents", progress.changes},
                      {"done", progress.done},
                      {"failed", progress.failed},
                      {"left", progress.changes - progress.done - progress.failed},
                      {"failures", std::move(failures)}};
  if (!progress.why.ok()) json["error"] = progress.why.message();
  return Written(json);
}

}  // namespace

void Router::BeginBatch(const CallPtr& call) {
  if (draining_.load()) return call->Fail(ShuttingDown());
  absl::StatusOr<std::vector<DocumentChange>> changes = ParseBatch(call->request().body);
  if (!changes.ok()) return call->Fail(changes.status());
  for (size_t i = 0; i < changes->size(); ++i) {
    const absl::Status valid = store::ValidateName("document id", (*changes)[i].id);
    if (!valid.ok()) return call->Fail(ParameterError(absl::StrCat("documents[", i, "].id"), valid.message()));
  }
  const absl::StatusOr<std::string> id = jobs_.Begin(call->caller.name, *std::move(changes));
  if (!id.ok()) return call->Fail(id.status());
  const auto progress = jobs_.Show(call->caller.name, *id);
  if (!progress.ok()) return call->Fail(progress.status());
  call->Respond(202, "application/json", BatchJson(*id, *progress),
                {{"location", absl::StrCat("/v1/documents:batch/", *id)}});
}

void Router::ShowBatch(const CallPtr& call) {
  const auto progress = jobs_.Show(call->caller.name, call->id);
  if (!progress.ok()) return call->Fail(progress.status());
  call->RespondJson(BatchJson(call->id, *progress));
}

void Router::CancelBatch(const CallPtr& call) {
  const auto progress = jobs_.Cancel(call->caller.name, call->id);
  if (!progress.ok()) return call->Fail(progress.status());
  call->RespondJson(BatchJson(call->id, *progress));
}

absl::Status Router::Apply(const DocumentChange& change, absl::Time deadline,
                           const std::function<bool()>& cancelled) const {
  if (!change.deletes) return Write(change, deadline, cancelled).status();
  const Service::Parts& parts = parts_.service->parts();
  KVLINK_RETURN_IF_ERROR(parts_.service->MayAsk());
  return parts_.service->Heard(parts.store->DeleteDocument(parts.generator->options().ns, change.id, /*generation=*/0));
}

void Router::BatchFailed(const std::string& owner, const absl::Status& status) const {
  if (!options_.log || CauseOf(status).empty()) return;
  Record record;
  record.route = "batch";
  record.caller = owner;
  record.status = KindOf(status).http_status;
  record.error = status;
  options_.log(record);
}

void Router::PrefetchDocuments(const CallPtr& call) {
  const absl::StatusOr<PrefetchRequest> request = ParsePrefetch(call->request().body);
  if (!request.ok()) return call->Fail(request.status());
  absl::StatusOr<Service::Prefetch> prefetch = parts_.service->PrefetchOf(*request);
  if (!prefetch.ok()) return call->Fail(prefetch.status());
  const auto wanted = static_cast<int64_t>(prefetch->wanted.size());
  const bool loads = wanted > 0 && prefetches_.Add(call->caller.name, std::move(prefetch->wanted));
  call->Respond(202, "application/json",
                Written({{"object", "document_prefetch"},
                         {"resident", prefetch->resident},
                         {"found", prefetch->found},
                         {"missing", prefetch->missing},
                         {"loading", loads ? wanted : 0},
                         {"unknown", prefetch->unknown}}));
}

absl::Status Router::PinDocument(const std::string& id, const absl::StatusOr<CatalogEntry>& entry) {
  const Service::Parts& parts = parts_.service->parts();
  const infer::GeneratorOptions& options = parts.generator->options();
  if (absl::IsNotFound(entry.status())) {
    return absl::NotFoundError(absl::StrCat("there is no such document in namespace '", options.ns, "'"));
  }
  KVLINK_RETURN_IF_ERROR(parts_.service->Heard(entry.status()));
  KVLINK_RETURN_IF_ERROR(encode::CheckEntry(id, *entry, parts.fingerprint, options.tenant_secret, options.wrapper));
  return parts_.service->Heard(pinned_.Pin(id, *entry));
}

void Router::ChangePins(const CallPtr& call, bool pin) {
  const absl::StatusOr<std::vector<std::string>> ids = ParseDocumentIds(call->request().body);
  if (!ids.ok()) return call->Fail(ids.status());
  call->OnGone(nullptr);
  const Service& service = *parts_.service;
  std::vector<absl::StatusOr<CatalogEntry>> entries;
  if (pin) {
    if (const absl::Status may = service.MayAsk(); !may.ok()) return call->Fail(may);
    auto found = service.parts().store->GetDocuments(service.parts().generator->options().ns, *ids);
    if (!found.ok()) return call->Fail(service.Heard(found.status()));
    entries = *std::move(found);
  }
  const absl::Time deadline = call->arrived() + options_.document_timeout;
  OrderedJson data = OrderedJson::array();
  int64_t failed = 0;
  for (size_t i = 0; i < ids->size(); ++i) {
    if (ended_ || call->gone()) return call->Fail(ShuttingDown());
    if (SteadyNow() >= deadline) {
      return call->Fail(absl::DeadlineExceededError("these documents take too long; what is done stays, so repeat it"));
    }
    const std::string& id = (*ids)[i];
    absl::Status status = service.MayAsk();
    if (status.ok()) status = pin ? PinDocument(id, entries[i]) : service.Heard(pinned_.Unpin(id));
    OrderedJson one = {{"id", id}, {"object", "document"}, {"pinned", pin == status.ok()}};
    if (!status.ok()) {
      one["error"] = status.message();
      ++failed;
      if (!CauseOf(status).empty()) call->record().error = status;  // for the log
    }
    data.push_back(std::move(one));
  }
  call->RespondJson(Written({{"object", "list"}, {"data", std::move(data)}, {"failed", failed}}));
}

void Router::ShowUsage(const CallPtr& call) {
  const Service& service = *parts_.service;
  const infer::Generator& generator = *service.parts().generator;
  if (const absl::Status may = service.MayAsk(); !may.ok()) return call->Fail(may);
  const absl::StatusOr<store::StoreStats> stats = service.parts().store->Stats();
  if (!stats.ok()) return call->Fail(service.Heard(stats.status()));
  store::NamespaceStats here;
  for (const store::NamespaceStats& one : stats->namespaces) {
    if (one.name == generator.options().ns) here = one;
  }
  const infer::ResidentPool::Stats pool = generator.stats().pool;
  OrderedJson data = OrderedJson::array();
  OrderedJson one = {{"namespace", generator.options().ns},
                     {"documents", here.documents},
                     {"encodings", here.encodings},
                     {"bytes", here.bytes},
                     {"pinned_bytes", here.pinned_bytes},
                     {"pinned_documents", pinned_.size()},
                     {"memory", {{"encodings", pool.residents}, {"bytes", pool.bytes}}}};
  data.push_back(std::move(one));
  call->RespondJson(Written({{"object", "list"}, {"data", std::move(data)}}));
}

void Router::AddReadings(std::vector<Reading>* readings) const {
  const DocumentJobs::Stats jobs = jobs_.stats();
  const Prefetcher::Stats prefetches = prefetches_.stats();
  const auto add = [readings](absl::string_view name, absl::string_view help, bool counts, int64_t value,
                              absl::string_view end = "") {
    readings->push_back({name, help, counts, static_cast<double>(value),
                         end.empty() ? std::string() : absl::StrCat("end=\"", end, "\"")});
  };
  add("batches", "Batches of documents under way", false, jobs.running);
  add("batch_bytes", "Bytes of what they have yet to do", false, jobs.bytes);
  constexpr absl::string_view kBatches = "Batches that ended, by how",
                              kChanges = "Documents of batches, by how each ended";
  add("batches_total", kBatches, true, jobs.done, "done");
  add("batches_total", kBatches, true, jobs.failed, "failed");
  add("batches_total", kBatches, true, jobs.cancelled, "cancelled");
  add("batches_refused_total", "Batches for which there was no room", true, jobs.refused);
  add("batch_documents_total", kChanges, true, jobs.changes_done, "done");
  add("batch_documents_total", kChanges, true, jobs.changes_failed, "failed");
  constexpr absl::string_view kPrefetched = "Encodings that were to be loaded early, by what became of it";
  add("prefetched_total", kPrefetched, true, prefetches.loaded, "loaded");
  add("prefetched_total", kPrefetched, true, prefetches.there, "there");
  add("prefetched_total", kPrefetched, true, prefetches.missed, "missed");
  add("prefetched_total", kPrefetched, true, prefetches.dropped, "dropped");
  add("pinned_documents", "Documents that this server has pinned", false, pinned_.size());
}

}  // namespace kvlink::serve
