// The server's routes: finds the one of a request, checks its key, and has it handled on a thread that may wait. The
// threads of the HTTP server only look a request up and hand it on.
//
// Thread-safety: all methods. Lifetime: what the parts point to outlives the router, which outlives the HTTP server and
// every answer that it gave to the scheduler (Scheduler::Drain).
#ifndef KVLINK_WORKER_SERVE_ROUTER_H_
#define KVLINK_WORKER_SERVE_ROUTER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "base/worker.h"
#include "worker/infer/scheduler.h"
#include "worker/ingest/document_writer.h"
#include "worker/serve/call.h"
#include "worker/serve/documents/document_jobs.h"
#include "worker/serve/documents/pinned_documents.h"
#include "worker/serve/documents/prefetcher.h"
#include "worker/serve/http/server.h"
#include "worker/serve/metrics.h"
#include "worker/serve/service.h"
#include "worker/serve/trace/exporter.h"

namespace kvlink::serve {

class Router {
 public:
  struct Parts {
    const Service* service = nullptr;
    infer::Scheduler* scheduler = nullptr;
    ingest::DocumentWriter* writer = nullptr;  // nullptr: documents cannot be written
  };
  struct Options {
    // Whose key it is; UNAUTHENTICATED. Empty: no key is asked for, and everybody may do everything.
    std::function<absl::StatusOr<Caller>(absl::string_view key)> authorize;
    // Without keys: the name that clients may call this host by, besides localhost and addresses of loopback. A page of
    // another site that a browser shows reaches the server by another name, or says where it comes from, and is
    // refused.
    std::string host;
    // Called at the end of every response, except those of probes; must not block. May be empty.
    std::function<void(const Record&)> log;
    // Takes the spans of sampled requests, except those of probes and of clients without a key; nullptr: nobody does.
    SpanExporter* exporter = nullptr;
    double sample = 1;              // probability, of requests whose clients name no trace
    int threads = 4;                // that read and tokenise requests
    int lookup_threads = 4;         // that wait for the store
    int document_threads = 4;       // that write documents, by turns
    int max_queued = 1024;          // requests that wait for the first or the second; one key has a quarter of them
    int max_documents_queued = 64;  // documents that wait to be written, likewise
    absl::Duration patience = absl::Seconds(30);          // how long a request may wait for its turn
    absl::Duration document_timeout = absl::Minutes(10);  // to wait for a turn, encode and store a document
  };
  Router(const Parts& parts, Options options);
  // Requests that wait for their turn are answered that the server is shutting down.
  ~Router();

  // HttpServer::Handler.
  void Handle(std::shared_ptr<HttpExchange> exchange);
  // HttpServer::Options::body_owner: the name of the key. Nothing for requests that Handle refuses by their head.
  std::optional<std::string> BodyOwner(const HttpRequest& head) const;
  // From now on /readyz says that the server is not ready.
  void BeginDrain() { draining_.store(true); }
  // Answers requests that wait for their turn, and documents that are being written, that the server is shutting down,
  // and ends batches and prefetches. Returns when the calls of the store that are under way have ended, or the layer
  // that is computed.
  void EndDrain();
  // Whose statistics /metrics shows, from its start to its end; nullptr: nobody's.
  void Watch(const HttpServer* server) { server_.store(server); }

 private:
  using CallPtr = std::shared_ptr<Call>;
  struct Route;
  static absl::Span<const Route> Routes();
  // nullptr: there is none. Adds the methods that the request's path understands to `allowed`.
  static const Route* Find(const HttpRequest& request, std::vector<absl::string_view>* allowed);

  absl::StatusOr<Caller> CallerOf(const HttpRequest& request) const;
  // Whether a request that needs no key may come by this name of the host.
  bool KnowsHost(absl::string_view host) const;
  // Whether it may come from what sends it: browsers say of which page, and send what needs no permission of ours.
  bool KnowsOrigin(absl::string_view origin) const;
  void Dispatch(const Route& route, CallPtr call);
  // Has `handle` done on a thread of `worker`, or fails the call. `deadline`: the call's own.
  void Hand(Worker& worker, const CallPtr& call, absl::Time deadline, std::function<void()> handle);
  void Answer(const CallPtr& call, const CompletionRequest& request);
  // `quiet`: of a route that is asked every few seconds, which is logged only if the log says more than the response.
  void Ended(const Record& record, bool quiet);

  // Each answers one kind of request.
  void Live(const CallPtr& call);
  void Ready(const CallPtr& call);
  void ShowMetrics(const CallPtr& call);
  void ShowPage(const CallPtr& call);
  void ListModels(const CallPtr& call);
  void ShowModel(const CallPtr& call);
  void Tokenize(const CallPtr& call);
  void Complete(const CallPtr& call);
  void PutDocument(const CallPtr& call);
  void ShowDocument(const CallPtr& call);
  void DeleteDocument(const CallPtr& call);
  void ListDocuments(const CallPtr& call);
  void BeginBatch(const CallPtr& call);
  void ShowBatch(const CallPtr& call);
  void CancelBatch(const CallPtr& call);
  void PrefetchDocuments(const CallPtr& call);
  void PinDocuments(const CallPtr& call) { ChangePins(call, /*pin=*/true); }
  void UnpinDocuments(const CallPtr& call) { ChangePins(call, /*pin=*/false); }
  void ShowUsage(const CallPtr& call);

  void ChangePins(const CallPtr& call, bool pin);
  absl::Status PinDocument(const std::string& id, const absl::StatusOr<CatalogEntry>& entry);
  // Puts a document. Errors of the writer; those of the store as Service::Heard.
  absl::StatusOr<ingest::DocumentWriter::Written> Write(const DocumentChange& document, absl::Time deadline,
                                                        const std::function<bool()>& cancelled) const;
  // DocumentJobs::Apply.
  absl::Status Apply(const DocumentChange& change, absl::Time deadline, const std::function<bool()>& cancelled) const;
  // Logs the error of a change in a batch if the log says more than the batch.
  void BatchFailed(const std::string& owner, const absl::Status& status) const;
  // Those of batches, prefetches and pins.
  void AddReadings(std::vector<Reading>* readings) const;

  const Parts parts_;
  const Options options_;
  const int64_t started_;  // seconds since 1970
  Metrics metrics_;
  std::atomic<bool> draining_{false}, ended_{false};
  std::atomic<const HttpServer*> server_{nullptr};
  Mutex mutex_;
  std::map<std::pair<const Worker*, std::string>, int> waiting_ ABSL_GUARDED_BY(mutex_);  // by name of the key
  // Of the thread of health_: when it asked the store last, and the answer.
  absl::Time asked_at_ = absl::InfinitePast();
  absl::Status answered_;
  PinnedDocuments pinned_;  // changed by the thread of pins_
  DocumentJobs jobs_;
  Prefetcher prefetches_;
  // Last: their tasks use the other members, and those of requests_ use lookups_.
  Worker lookups_, requests_, documents_, pins_, health_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_ROUTER_H_
