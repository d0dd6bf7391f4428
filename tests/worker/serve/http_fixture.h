// A server whose handler keeps the exchanges for the test. Thread-safety: the server's threads and the test's.
#ifndef KVLINK_TESTS_WORKER_SERVE_HTTP_FIXTURE_H_
#define KVLINK_TESTS_WORKER_SERVE_HTTP_FIXTURE_H_

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "tests/support/patience.h"
#include "tests/worker/serve/http_client.h"
#include "worker/serve/http/server.h"

namespace kvlink::serve::testing {

using kvlink::testing::Eventually;

class TestServer {
 public:
  // Without a handler, exchanges are kept for Next().
  explicit TestServer(HttpServer::Options options = {}, HttpServer::Handler handler = nullptr) {
    options.address = "127.0.0.1:0";
    if (handler == nullptr) handler = [this](std::shared_ptr<HttpExchange> exchange) { Keep(std::move(exchange)); };
    auto server = HttpServer::Start(options, std::move(handler));
    EXPECT_TRUE(server.ok()) << server.status();
    if (server.ok()) server_ = *std::move(server);
  }
  // Null, with a test failure, if none comes.
  std::shared_ptr<HttpExchange> Next() {
    const absl::Time until = kvlink::testing::Patience();
    MutexLock lock(&mutex_);
    while (kept_.empty()) {
      if (!arrived_.WaitUntil(&mutex_, until)) {
        ADD_FAILURE() << "no request arrived";
        return nullptr;
      }
    }
    std::shared_ptr<HttpExchange> next = std::move(kept_.front());
    kept_.pop_front();
    return next;
  }
  // Null if there is none.
  std::shared_ptr<HttpExchange> TryNext() {
    MutexLock lock(&mutex_);
    if (kept_.empty()) return nullptr;
    std::shared_ptr<HttpExchange> next = std::move(kept_.front());
    kept_.pop_front();
    return next;
  }
  HttpServer* operator->() { return server_.get(); }
  void Destroy() { server_.reset(); }
  bool Connect(HttpClient* client) { return client->Connect(server_->address()); }

 private:
  void Keep(std::shared_ptr<HttpExchange> exchange) {
    MutexLock lock(&mutex_);
    kept_.push_back(std::move(exchange));
    arrived_.SignalAll();
  }

  Mutex mutex_;
  CondVar arrived_;
  std::deque<std::shared_ptr<HttpExchange>> kept_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<HttpServer> server_;  // ends first
};

// Answers with what was asked.
inline void Echo(const std::shared_ptr<HttpExchange>& exchange) {
  const HttpRequest& request = exchange->request();
  exchange->Respond(200, "text/plain",
                    absl::StrCat(request.method, " ", request.path, " ", request.query, "\n", request.body));
}

inline std::string Get(absl::string_view path) { return absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n"); }
inline std::string Post(absl::string_view path, absl::string_view body) {
  return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
}

}  // namespace kvlink::serve::testing

#endif  // KVLINK_TESTS_WORKER_SERVE_HTTP_FIXTURE_H_
