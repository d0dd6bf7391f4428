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
#include "worker/serve/api/request.h"
#include "worker/serve/dialect.h"
#include "worker/serve/http/server.h"

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
  absl::Duration took;  // from the arrival of the request to the end of its response
  Usage usage;          // of a completion
  absl::Status error;
};

class Call {
 public:
  // `ended`: called once, with the complete record.
  Call(std::shared_ptr<HttpExchange> exchange, absl::string_view route, const Dialect* dialect,
       std::function<void(const Record&)> ended)
      : exchange_(std::move(exchange)), dialect_(dialect), ended_(std::move(ended)), arrived_(SteadyNow()) {
    record_.route = route;
  }
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const HttpRequest& request() const { return exchange_->request(); }
  const Dialect& dialect() const { return *dialect_; }
  absl::Time arrived() const { return arrived_; }
  Record& record() { return record_; }

  Caller caller;
  std::string id;  // the last part of the path, for routes that have one

  // As HttpExchange; each of them ends or continues the response.
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

  const std::shared_ptr<HttpExchange> exchange_;
  const Dialect* const dialect_;
  std::function<void(const Record&)> ended_;
  const absl::Time arrived_;
  const std::shared_ptr<std::atomic<bool>> gone_ = std::make_shared<std::atomic<bool>>(false);
  Record record_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_CALL_H_
