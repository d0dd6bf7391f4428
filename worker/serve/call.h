// One request that is being answered: the exchange, who asks, in which API, and the record of it that is counted and
// logged when its response ends. What is asked and answered is in no record.
//
// Thread-safety: one thread at a time, but gone() from any. Lifetime: the observer's surroundings outlive the object.
#ifndef KVLINK_WORKER_SERVE_CALL_H_
#define KVLINK_WORKER_SERVE_CALL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "worker/infer/generator.h"
#include "worker/infer/phases.h"
#include "worker/serve/api/request.h"
#include "worker/serve/dialect.h"
#include "worker/serve/http/server.h"
#include "worker/serve/trace/context.h"

namespace kvlink::serve {

// Whose key a request has.
struct Caller {
  std::string name;
  bool may_write = true;  // documents
};

struct Record {
  absl::string_view route;  // its name; "none" if there is none
  std::string caller;
  int status = 0;       // HTTP
  bool gone = false;    // the client did not wait for the end of the response
  absl::Time arrived;   // the request, in SteadyNow() time
  absl::Duration took;  // from then to the end of its response
  absl::Status error;
  TraceContext trace;
  bool admitted = false;  // the request is one of those that a key is asked for, and has one
  // Of a completion.
  Usage usage;
  infer::Phase catalog;                           // documents were looked up by their ids
  absl::Time submitted = absl::InfiniteFuture();  // to the scheduler
  infer::RequestStats stats;

  // Through no fault of the client's; also once its response had begun.
  bool failed() const { return status >= 500 || (status < 400 && !error.ok()); }
};

class Call {
 public:
  // `sample`: TraceContext::Of. `ended`: called once, with the complete record.
  Call(std::shared_ptr<HttpExchange> exchange, absl::string_view route, const Dialect* dialect, double sample,
       std::function<void(const Record&)> ended)
      : exchange_(std::move(exchange)), dialect_(dialect), ended_(std::move(ended)) {
    record_.route = route;
    record_.arrived = SteadyNow();
    record_.trace = TraceContext::Of(exchange_->request().headers, sample);
  }
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const HttpRequest& request() const { return exchange_->request(); }
  const Dialect& dialect() const { return *dialect_; }
  absl::Time arrived() const { return record_.arrived; }
  Record& record() { return record_; }

  Caller caller;
  std::string id;  // the last part of the path, for routes that have one

  // As HttpExchange; each of them ends or continues the response. A client that names a trace is told the server's span
  // (`traceparent`).
  void Respond(int status, absl::string_view content_type, std::string body, HttpHeaders headers = {});
  void RespondJson(std::string body) { Respond(200, "application/json", std::move(body)); }
  void Begin(int status, absl::string_view content_type, HttpHeaders headers);
  void Write(std::string piece) { exchange_->Write(std::move(piece)); }
  void End();
  // Responds with an error in the API's own form. REQUIRES: `status` is not OK.
  void Fail(const absl::Status& status, HttpHeaders headers = {});
  // Calls `then` (may be empty) once the client has gone, and makes gone() true.
  void OnGone(std::function<void()> then);
  bool gone() const { return gone_->load(); }

 private:
  void Complete();
  HttpHeaders Traced(HttpHeaders headers) const;

  const std::shared_ptr<HttpExchange> exchange_;
  const Dialect* const dialect_;
  std::function<void(const Record&)> ended_;
  const std::shared_ptr<std::atomic<bool>> gone_ = std::make_shared<std::atomic<bool>>(false);
  Record record_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_CALL_H_
