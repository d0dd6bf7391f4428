// What the connections of a server share, and the set of them. Thread-safety: all methods. Lifetime: every connection
// holds it, since sockets need the io_context to the end.
#ifndef KVLINK_WORKER_SERVE_HTTP_CONNECTIONS_H_
#define KVLINK_WORKER_SERVE_HTTP_CONNECTIONS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "worker/serve/http/asio.h"
#include "worker/serve/http/body_budget.h"
#include "worker/serve/http/server.h"

namespace kvlink::serve {

class Connection;

class Connections {
 public:
  Connections(const HttpServer::Options& options, HttpServer::Handler handler)
      : options(options),
        handler(std::move(handler)),
        bodies(std::make_shared<BodyBudget>(options.max_bodies_bytes)),
        io(options.threads) {}

  // Returns false beyond the limit, and once Close() was called.
  bool Add(const std::shared_ptr<Connection>& connection) {
    MutexLock lock(&mutex_);
    if (closed_ || static_cast<int64_t>(connections_.size()) >= options.max_connections) return false;
    return connections_.insert(connection).second;
  }
  void Remove(const std::shared_ptr<Connection>& connection) {
    MutexLock lock(&mutex_);
    connections_.erase(connection);
    if (connections_.empty()) none_.SignalAll();
  }
  // From now on none can be added. Returns those that there are.
  std::vector<std::shared_ptr<Connection>> Close() {
    MutexLock lock(&mutex_);
    closed_ = true;
    return {connections_.begin(), connections_.end()};
  }
  // Waits until there is none, or until `deadline`.
  void WaitUntilNone(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (!connections_.empty() && none_.WaitUntil(&mutex_, deadline)) {
    }
  }
  int64_t size() const {
    MutexLock lock(&mutex_);
    return static_cast<int64_t>(connections_.size());
  }

  const HttpServer::Options options;
  const HttpServer::Handler handler;
  const std::shared_ptr<BodyBudget> bodies;
  asio::io_context io;
  std::optional<asio::ssl::context> tls;  // set before the first connection
  // By itself, because exchanges hold it, too, and may outlive the server.
  const std::shared_ptr<std::atomic<bool>> draining = std::make_shared<std::atomic<bool>>(false);
  std::atomic<int64_t> accepted = 0, refused = 0, requests = 0, malformed = 0, timed_out = 0, gone = 0;

 private:
  mutable Mutex mutex_;
  CondVar none_;
  absl::flat_hash_set<std::shared_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_CONNECTIONS_H_
