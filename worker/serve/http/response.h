// The response to one request, between a handler that writes it and a connection that sends it; knows no sockets.
//
// Bytes that the connection has not yet taken are kept in one string, so that what a handler writes while the
// connection is busy goes out together.
//
// Thread-safety: all methods. Lifetime: shared by the connection and the handler's exchange; after Close() nothing of
// the connection is used any more.
#ifndef KVLINK_WORKER_SERVE_HTTP_RESPONSE_H_
#define KVLINK_WORKER_SERVE_HTTP_RESPONSE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "worker/serve/http/body_budget.h"
#include "worker/serve/http/server.h"

namespace kvlink::serve {

// What a request says about the form of its response.
struct Framing {
  bool http11 = true;  // otherwise the client does not understand chunks
  bool head = false;   // no body
  bool keep_alive = false;
};

// The answer to a request that no handler sees.
struct Refusal {
  int status = 0;
  const char* message = "";     // ASCII
  int retry_after_seconds = 0;  // 0: nothing said
};

class Response {
 public:
  // `draining`: no connection serves another request. `wake`: there is something new for the connection; called by any
  // thread, under a lock of this object.
  Response(HttpRequest request, BodyCharge charge, const Framing& framing, int64_t max_unread_bytes,
           std::shared_ptr<const std::atomic<bool>> draining, std::function<void()> wake);

  // For the handler, as HttpExchange. Whatever is called out of order, or after Close(), does nothing.
  const HttpRequest& request() const { return request_; }
  void Respond(int status, absl::string_view content_type, std::string body, const HttpHeaders& headers);
  void Begin(int status, absl::string_view content_type, const HttpHeaders& headers);
  void Write(absl::string_view piece);
  void End();
  void OnGone(std::function<void()> gone);
  // The handler has let go of the exchange: an unfinished response becomes an error or is cut off.
  void Abandon();

  void Refuse(const Refusal& refusal);

  // For the connection.
  enum class State : uint8_t {
    kOpen,
    kComplete,  // all bytes are sent
    kUnread,    // the client leaves too much unread
    kCutOff,    // the bytes taken are the last, and the client must notice that some are missing
  };
  // Swaps the queued bytes into `bytes`, which is empty. kOpen if there are any.
  State Take(std::string* bytes);
  State state() const;
  void Sent(size_t bytes);
  // Whether the handler has written all of it.
  bool ended() const;
  // After kComplete: whether the connection serves another request.
  bool keep_alive() const;
  // The connection is gone: calls OnGone's function unless the response has ended. Returns whether bytes remained
  // unsent.
  bool Close();

 private:
  // Lengths below 0: unknown.
  void AppendHead(int status, absl::string_view content_type, const HttpHeaders& headers, int64_t body_length)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  State StateLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const HttpRequest request_;
  const BodyCharge charge_;
  const Framing framing_;
  const int64_t max_unread_bytes_;
  const std::shared_ptr<const std::atomic<bool>> draining_;
  const std::function<void()> wake_;

  mutable Mutex mutex_;
  std::string queued_ ABSL_GUARDED_BY(mutex_);
  int64_t unread_ ABSL_GUARDED_BY(mutex_) = 0;  // queued, or taken by the connection and not sent
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool chunked_ ABSL_GUARDED_BY(mutex_) = false;
  bool bodiless_ ABSL_GUARDED_BY(mutex_) = false;
  bool keep_alive_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool too_much_ ABSL_GUARDED_BY(mutex_) = false;
  bool cut_off_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;  // since the last Take()
  std::function<void()> gone_ ABSL_GUARDED_BY(mutex_);
};

// The handler's side of a response.
std::shared_ptr<HttpExchange> MakeExchange(std::shared_ptr<Response> response);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_RESPONSE_H_
