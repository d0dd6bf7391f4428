// One table of routes. A request that no thread has room for is refused at once, so that what waits is bounded.
#include "worker/serve/router.h"

#include <arpa/inet.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/serve/answer_stream.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/api/openai.h"
#include "worker/serve/dialect.h"
#include "worker/serve/page/page.h"

namespace kvlink::serve {

// Where a request is handled.
enum class Place : uint8_t {
  kHere,       // on the HTTP server's thread
  kRequests,   // where it is read and tokenised
  kLookups,    // where it may wait for the store
  kDocuments,  // where it may compute
  kPins,       // where one request after another changes pins
  kHealth,     // where it waits for the store, but for no other request
};

// One key has at most one of so many parts of a queue.
constexpr int kShare = 4;

enum class Needs : uint8_t { kNothing, kKey, kWriting };

struct Router::Route {
  absl::string_view method;
  absl::string_view path;  // ending in "/": followed by an id, which may contain "/"
  absl::string_view name;
  Needs needs;
  Place place;
  const Dialect& (*dialect)();
  void (Router::*handle)(const CallPtr& call);

  bool has_id() const { return path.size() > 1 && absl::EndsWith(path, "/"); }
  bool Matches(absl::string_view other) const {
    return has_id() ? absl::StartsWith(other, path) && other.size() > path.size() : other == path;
  }
};

absl::Span<const Router::Route> Router::Routes() {
  using enum Needs;
  using enum Place;
  static constexpr Route kRoutes[] = {
      {"POST", "/v1/chat/completions", "chat", kKey, kRequests, ChatDialect, &Router::Complete},
      {"POST", "/v1/completions", "completions", kKey, kRequests, CompletionDialect, &Router::Complete},
      {"POST", "/v1/responses", "responses", kKey, kRequests, ResponsesDialect, &Router::Complete},
      {"POST", "/v1/messages", "messages", kKey, kRequests, MessagesDialect, &Router::Complete},
      {"GET", "/v1/models", "models", kKey, kHere, ChatDialect, &Router::ListModels},
      {"GET", "/v1/models/", "model", kKey, kHere, ChatDialect, &Router::ShowModel},
      {"POST", "/tokenize", "tokenize", kKey, kRequests, ChatDialect, &Router::Tokenize},
      {"GET", "/v1/documents", "list_documents", kKey, kLookups, ChatDialect, &Router::ListDocuments},
      {"GET", "/v1/documents/", "get_document", kKey, kLookups, ChatDialect, &Router::ShowDocument},
      {"HEAD", "/v1/documents/", "get_document", kKey, kLookups, ChatDialect, &Router::ShowDocument},
      {"PUT", "/v1/documents/", "put_document", kWriting, kDocuments, ChatDialect, &Router::PutDocument},
      {"DELETE", "/v1/documents/", "delete_document", kWriting, kLookups, ChatDialect, &Router::DeleteDocument},
      {"POST", "/v1/documents:batch", "batch", kWriting, kRequests, ChatDialect, &Router::BeginBatch},
      {"GET", "/v1/documents:batch/", "get_batch", kWriting, kHere, ChatDialect, &Router::ShowBatch},
      {"DELETE", "/v1/documents:batch/", "cancel_batch", kWriting, kHere, ChatDialect, &Router::CancelBatch},
      {"POST", "/v1/documents:prefetch", "prefetch", kKey, kLookups, ChatDialect, &Router::PrefetchDocuments},
      {"POST", "/v1/documents:pin", "pin", kWriting, kPins, ChatDialect, &Router::PinDocuments},
      {"POST", "/v1/documents:unpin", "unpin", kWriting, kPins, ChatDialect, &Router::UnpinDocuments},
      {"GET", "/v1/usage", "usage", kKey, kLookups, ChatDialect, &Router::ShowUsage},
      {"GET", "/livez", "livez", kNothing, kHere, ChatDialect, &Router::Live},
      {"GET", "/readyz", "readyz", kNothing, kHealth, ChatDialect, &Router::Ready},
      {"GET", "/metrics", "metrics", kNothing, kHere, ChatDialect, &Router::ShowMetrics},
      {"GET", "/", "page", kNothing, kHere, ChatDialect, &Router::ShowPage},
      {"GET", "/page.js", "page", kNothing, kHere, ChatDialect, &Router::ShowPage},
  };
  return kRoutes;
}

Router::Router(const Parts& parts, Options options)
    : parts_(parts),
      options_(std::move(options)),
      started_(absl::ToUnixSeconds(absl::Now())),
      metrics_(parts.service->parts().generator->options().ns),
      pinned_(parts.service->parts().store, {.ns = parts.service->parts().generator->options().ns,
                                             .codec = parts.service->parts().generator->options().codec}),
      jobs_(
          {.shares = options_.authorize != nullptr ? kShare : 1, .document_timeout = options_.document_timeout},
          [this](const DocumentChange& change, absl::Time deadline, const std::function<bool()>& cancelled) {
            return Apply(change, deadline, cancelled);
          },
          [this](const std::string& owner, const absl::Status& status) { BatchFailed(owner, status); }),
      prefetches_(&parts.service->parts().generator->pool(),
                  {.layers = parts.service->parts().generator->model().config().layers,
                   .shares = options_.authorize != nullptr ? kShare : 1},
                  [scheduler = parts.scheduler] { return scheduler->stats().waiting > 0; }),
      lookups_({.name = "lookups",
                .threads = options_.lookup_threads,
                .max_queued = options_.max_queued,
                .max_queued_bytes = INT64_MAX}),  // the HTTP server bounds the bodies
      requests_({.name = "requests",
                 .threads = options_.threads,
                 .max_queued = options_.max_queued,
                 .max_queued_bytes = INT64_MAX}),
      documents_({.name = "documents",
                  .threads = options_.document_threads,
                  .max_queued = options_.max_documents_queued,
                  .max_queued_bytes = INT64_MAX}),
      pins_({.name = "pins", .max_queued = options_.max_documents_queued, .max_queued_bytes = INT64_MAX}),
      health_({.name = "health", .max_queued = 64}) {}

Router::~Router() { ended_ = true; }

void Router::EndDrain() {
  ended_ = true;
  jobs_.Stop();
  prefetches_.Stop();
  for (Worker* worker : {&documents_, &pins_, &requests_, &lookups_}) worker->Stop();
}

void Router::Ended(const Record& record, bool quiet) {
  metrics_.Ended(record.route, record.status, record.took);
  metrics_.Took(PhasesOf(record));
  if (options_.exporter != nullptr && record.admitted && record.trace.sampled) {
    options_.exporter->Add(SpansOf(record));
  }
  if (options_.log && !(quiet && CauseOf(record.error).empty())) options_.log(record);
}

absl::StatusOr<Caller> Router::CallerOf(const HttpRequest& request) const {
  if (options_.authorize == nullptr) return Caller{};
  absl::string_view key = request.header("x-api-key");
  if (key.empty()) {
    constexpr absl::string_view kScheme = "bearer ";
    const absl::string_view given = request.header("authorization");
    if (absl::StartsWithIgnoreCase(given, kScheme)) key = absl::StripAsciiWhitespace(given.substr(kScheme.size()));
  }
  if (key.empty()) {
    return absl::UnauthenticatedError("no API key: send it as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"");
  }
  return options_.authorize(key);
}

const Router::Route* Router::Find(const HttpRequest& request, std::vector<absl::string_view>* allowed) {
  const Route* found = nullptr;
  for (const Route& route : Routes()) {
    if (!route.Matches(request.path)) continue;
    if (route.method == request.method) found = &route;
    allowed->push_back(route.method);
  }
  return found;
}

std::optional<std::string> Router::BodyOwner(const HttpRequest& head) const {
  if (options_.authorize == nullptr && (!KnowsHost(head.header("host")) || !KnowsOrigin(head.header("origin")))) {
    return std::nullopt;
  }
  std::vector<absl::string_view> unused;
  const Route* const route = Find(head, &unused);
  if (route == nullptr || route->needs == Needs::kNothing) return std::nullopt;
  const absl::StatusOr<Caller> caller = CallerOf(head);
  if (!caller.ok() || (route->needs == Needs::kWriting && !caller->may_write)) return std::nullopt;
  return caller->name;
}

void Router::Handle(std::shared_ptr<HttpExchange> exchange) {
  const HttpRequest& request = exchange->request();
  std::vector<absl::string_view> allowed;
  const Route* const found = Find(request, &allowed);
  const auto call = std::make_shared<Call>(
      std::move(exchange), found == nullptr ? "none" : found->name,
      found == nullptr ? &ChatDialect() : &found->dialect(), options_.exporter == nullptr ? 0 : options_.sample,
      [this, quiet = found != nullptr && found->needs == Needs::kNothing](const Record& record) {
        Ended(record, quiet);
      });
  if (options_.authorize == nullptr && !KnowsHost(call->request().header("host"))) {
    const absl::Status status = absl::PermissionDeniedError(
        "this server has no keys, so it answers only to localhost, to addresses of this host and to the host of "
        "--listen");
    return call->Respond(421, "application/json", call->dialect().ErrorBody(status));
  }
  if (options_.authorize == nullptr && !KnowsOrigin(call->request().header("origin"))) {
    return call->Fail(absl::PermissionDeniedError(
        "this server has no keys, so it does not answer to the pages of other sites (the header Origin)"));
  }
  if (found != nullptr) return Dispatch(*found, call);
  if (allowed.empty()) {
    return call->Fail(absl::NotFoundError(absl::StrCat("there is no ", Quoted(request.path), " here")));
  }
  const std::string methods = absl::StrJoin(allowed, ", ");
  const absl::Status status = absl::InvalidArgumentError(
      absl::StrCat(Quoted(request.path), " understands ", methods, ", but not ", Quoted(request.method)));
  call->Respond(405, "application/json", call->dialect().ErrorBody(status), {{"allow", methods}});
}

void Router::Dispatch(const Route& route, CallPtr call) {
  if (route.needs != Needs::kNothing) {
    absl::StatusOr<Caller> caller = CallerOf(call->request());
    if (!caller.ok()) return call->Fail(caller.status());
    call->caller = *std::move(caller);
    if (route.needs == Needs::kWriting && !call->caller.may_write) {
      return call->Fail(absl::PermissionDeniedError("this key may not write documents"));
    }
    call->record().admitted = true;
    if (route.needs == Needs::kWriting && parts_.writer == nullptr) {
      return call->Fail(absl::PermissionDeniedError("the store of this server is read-only"));
    }
  }
  if (route.has_id()) call->id = call->request().path.substr(route.path.size());
  if (route.place == Place::kHere) return (this->*route.handle)(call);
  const bool writes = route.place == Place::kDocuments || route.place == Place::kPins;
  Worker& worker = route.place == Place::kDocuments  ? documents_
                   : route.place == Place::kPins     ? pins_
                   : route.place == Place::kRequests ? requests_
                   : route.place == Place::kLookups  ? lookups_
                                                     : health_;
  Hand(worker, call, writes ? call->arrived() + options_.document_timeout : absl::InfiniteFuture(),
       [this, call, &route] { (this->*route.handle)(call); });
}

void Router::Hand(Worker& worker, const CallPtr& call, absl::Time deadline, std::function<void()> handle) {
  const std::pair<const Worker*, std::string> key(&worker, call->caller.name);
  const auto count = [this, key](int more) {
    MutexLock lock(&mutex_);
    int& waiting = waiting_[key];
    const int counted = waiting += more;
    if (waiting == 0) waiting_.erase(key);
    return counted;
  };
  const auto waits_no_more = [count] { count(-1); };
  const bool writes = &worker == &documents_ || &worker == &pins_;
  const int room = writes ? options_.max_documents_queued : options_.max_queued;
  if (count(1) > std::max(1, room / kShare) && options_.authorize != nullptr) {
    waits_no_more();
    return call->Fail(absl::ResourceExhaustedError("too many requests with this key wait already; try again later"));
  }
  const absl::Time patience = writes ? deadline : call->arrived() + options_.patience;
  const absl::Status added =
      worker.Add({.work =
                      [call, deadline, waits_no_more, handle = std::move(handle)](const absl::Status& turn) {
                        waits_no_more();
                        if (turn.ok()) return handle();
                        const bool own = !absl::IsDeadlineExceeded(turn) || SteadyNow() >= deadline;
                        call->Fail(own ? turn : absl::UnavailableError("the server is too busy; try again later"));
                      },
                  .deadline = std::min(patience, deadline),
                  .owner = call->caller.name});
  if (added.ok()) return;
  waits_no_more();
  call->Fail(added);
}

bool Router::KnowsHost(absl::string_view host) const {
  // Without the port.
  host = host.substr(0, absl::StartsWith(host, "[") ? host.find(']') + 1 : host.find(':'));
  if (host.empty() || absl::EqualsIgnoreCase(host, "localhost") || absl::EqualsIgnoreCase(host, options_.host) ||
      host == "[::1]") {
    return true;
  }
  in_addr address = {};
  return inet_pton(AF_INET, std::string(host).c_str(), &address) == 1 && ntohl(address.s_addr) >> 24 == 127;
}

bool Router::KnowsOrigin(absl::string_view origin) const {
  if (origin.empty()) return true;  // sent by no page, or by one of our own
  const bool site = absl::ConsumePrefix(&origin, "http://") || absl::ConsumePrefix(&origin, "https://");
  return site && !origin.empty() && KnowsHost(origin);
}

void Router::Live(const CallPtr& call) { call->Respond(200, "text/plain", "live\n"); }

void Router::Ready(const CallPtr& call) {
  if (draining_.load()) return call->Fail(absl::UnavailableError("the server is shutting down"));
  // An answer that is newer than the call is one to it: this needs no key, and may be asked often.
  if (call->arrived() >= asked_at_) {
    asked_at_ = SteadyNow();
    answered_ = parts_.service->parts().store->Clock().status();
  }
  if (!answered_.ok()) return call->Fail(WithCause(absl::UnavailableError("the store does not answer"), answered_));
  call->Respond(200, "text/plain", "ready\n");
}

void Router::ShowMetrics(const CallPtr& call) {
  const HttpServer* const server = server_.load();
  std::vector<Reading> readings =
      ReadingsOf(parts_.scheduler->stats(), parts_.service->parts().generator->stats(),
                 server == nullptr ? HttpServer::Stats() : server->stats(),
                 options_.exporter == nullptr ? SpanExporter::Stats() : options_.exporter->stats());
  AddReadings(&readings);
  call->Respond(200, "text/plain; version=0.0.4", metrics_.Page(readings));
}

void Router::ShowPage(const CallPtr& call) {
  const bool script = call->request().path != "/";
  // Nothing in it may come from elsewhere, and no other page may show it as its own.
  call->Respond(
      200, script ? "text/javascript; charset=utf-8" : "text/html; charset=utf-8",
      std::string(script ? PageScript() : PageHtml()),
      {{"content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"},
       {"x-content-type-options", "nosniff"},
       {"cache-control", "no-cache"}});
}

void Router::ListModels(const CallPtr& call) {
  std::vector<openai::Model> models;
  for (const std::string& name : parts_.service->models()) models.push_back({name, started_});
  call->RespondJson(openai::ModelList(models));
}

void Router::ShowModel(const CallPtr& call) {
  if (const absl::Status known = parts_.service->CheckModel(call->id); !known.ok()) return call->Fail(known);
  call->RespondJson(openai::ModelEntry({call->id, started_}));
}

void Router::Tokenize(const CallPtr& call) {
  const absl::StatusOr<Json> json = ParseObject(call->request().body);
  if (!json.ok()) return call->Fail(json.status());
  absl::Status error;
  const Field body(*json, &error);
  const std::string text = body[body["text"].given() ? "text" : "prompt"].Text();
  if (!error.ok()) return call->Fail(error);
  const auto tokens = parts_.service->Tokenize(text);
  if (!tokens.ok()) return call->Fail(tokens.status());
  call->RespondJson(absl::StrCat("{\"count\":", tokens->size(), ",\"tokens\":[", absl::StrJoin(*tokens, ","), "]}"));
}

void Router::Complete(const CallPtr& call) {
  const absl::StatusOr<CompletionRequest> request = call->dialect().Parse(call->request().body);
  if (!request.ok()) return call->Fail(request.status());
  if (const absl::Status known = parts_.service->CheckModel(request->model); !known.ok()) return call->Fail(known);
  if (!Service::AsksStore(*request)) return Answer(call, *request);
  const absl::Time deadline =
      request->kv.deadline_ms ? call->arrived() + absl::Milliseconds(*request->kv.deadline_ms) : absl::InfiniteFuture();
  Hand(lookups_, call, deadline, [this, call, request = *request] { Answer(call, request); });
}

void Router::Answer(const CallPtr& call, const CompletionRequest& request) {
  const Service& service = *parts_.service;
  absl::StatusOr<infer::Scheduler::Job> job =
      service.JobOf(request, call->caller.name, call->arrived(), &call->record().catalog);
  if (!job.ok()) return call->Fail(job.status());
  auto later = [this, owner = call->caller.name](std::function<void()> work) {
    // Bounded by the answers under way.
    if (!requests_.AddAdmitted({.work = [work](const absl::Status&) { work(); }, .owner = owner}).ok()) work();
  };
  const auto stream = std::make_shared<AnswerStream>(call, request, service.parts().tokenizer,
                                                     PromptTokensOf(job->request, service.parts().generator->options()),
                                                     &metrics_, std::move(later));
  std::vector<infer::Scheduler::Submission> answers;
  for (auto& listener : stream->Listen()) {
    answers.push_back({*job, std::move(listener)});
    ++job->request.sampling.seed;  // of the next one
  }
  call->record().submitted = SteadyNow();
  const auto numbers = parts_.scheduler->Submit(std::move(answers));
  if (!numbers.ok()) return call->Fail(numbers.status());
  const auto cancel = [scheduler = parts_.scheduler, numbers = *numbers] {
    for (const uint64_t number : numbers) scheduler->Cancel(number);
  };
  stream->Submitted(cancel);
  call->OnGone(cancel);  // one that has gone by now is noticed here, too
}

}  // namespace kvlink::serve
