// An HTTP/1.1 server on two threads, for thousands of connections, most of them streaming.
//
// Whoever has not sent a whole request costs bounded bytes and bounded time: headers, bodies (each, all together, and
// those of one owner), connections and the time that a request takes to arrive have limits, and so have bytes that a
// client does not read.
// A connection that waits takes some 10 KiB, or 30 KiB with TLS.
//
// Thread-safety: all methods. Lifetime: the handler's surroundings outlive the server; an exchange may outlive it, and
// is closed then.
#ifndef KVLINK_WORKER_SERVE_HTTP_SERVER_H_
#define KVLINK_WORKER_SERVE_HTTP_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvlink::serve {

struct HttpRequest {
  std::string method;                                        // as sent: "GET"
  std::string path;                                          // percent-decoded, without the query: "/v1/models"
  std::string query;                                         // as sent, without "?"
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  // The value of a header, by its name in lower case; empty if there is none.
  absl::string_view header(absl::string_view name) const;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// One request and its response. All methods return at once; what is written is sent in order.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpRequest& request() const = 0;
  // The whole response. Respond or Begin is called once.
  virtual void Respond(int status, absl::string_view content_type, std::string body, HttpHeaders headers = {}) = 0;
  // A response of unknown length: Begin, Write for each piece, End.
  virtual void Begin(int status, absl::string_view content_type, HttpHeaders headers = {}) = 0;
  virtual void Write(std::string piece) = 0;
  virtual void End() = 0;
  // Calls `gone`, from a thread of the server, if the client goes away, or reads too slowly, before the response is
  // complete; at once if that has happened. A client that closes its side of the connection has gone. Called once, also
  // when the server is destroyed; `gone` is released when the response is complete.
  virtual void OnGone(std::function<void()> gone) = 0;
};

class HttpServer {
 public:
  struct Options {
    std::string address;      // "127.0.0.1:8080", "[::1]:0"
    std::string certificate;  // PEM files; empty: plain HTTP
    std::string key;
    int threads = 2;
    int64_t max_connections = 10000;  // at most a quarter of the descriptors that the process may open
    int64_t max_header_bytes = 16 << 10;
    int64_t max_body_bytes = int64_t{32} << 20;  // of one request
    // Of all requests that are being received or handled. An owner of bodies has at most a quarter, and bodies of more
    // than 64 KiB leave a quarter, also of that, to others.
    int64_t max_bodies_bytes = int64_t{256} << 20;
    int64_t max_unread_bytes = int64_t{1} << 20;        // of a response, written but not taken by the client
    absl::Duration header_timeout = absl::Seconds(10);  // from the first byte of a request, or the connection, on
    absl::Duration body_timeout = absl::Seconds(30);    // for each MiB of a body, and for the rest of it
    absl::Duration write_timeout = absl::Seconds(30);   // without the client taking a byte
    absl::Duration idle_timeout = absl::Seconds(75);    // between two requests of a connection
    // Whose body a request brings, asked for before the body is received or counted, by the request without it; empty:
    // the client's address. Nothing: the body is not wanted. The handler, which has to refuse the request, is then
    // given it without its body at once, and the connection ends with the response. Called on a thread of the server;
    // must not block. Absent: all bodies belong to their clients' addresses.
    std::function<std::optional<std::string>(const HttpRequest& head)> body_owner;
  };
  // Called on a thread of the server once a request is complete; must not block.
  using Handler = std::function<void(std::shared_ptr<HttpExchange>)>;

  // INVALID_ARGUMENT: a malformed address, limits or PEM files that do not fit each other. NOT_FOUND: there is no such
  // file. UNAVAILABLE: the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options, Handler handler);
  // Closes all connections at once. Not called by a thread of the server.
  ~HttpServer();

  // The address it listens on, with the port the system chose.
  const std::string& address() const { return address_; }
  // Accepts no more connections, answers requests in progress with "Connection: close", and returns when all
  // connections have ended or `deadline` (SteadyNow() time) has passed.
  void Drain(absl::Time deadline);

  struct Stats {
    int64_t connections = 0;  // now
    int64_t accepted = 0;
    int64_t refused = 0;    // connections beyond the limit
    int64_t requests = 0;   // given to the handler
    int64_t malformed = 0;  // answered here: syntax, limits
    int64_t timed_out = 0;  // connections closed because the client was too slow
    int64_t gone = 0;       // responses that the client did not wait for
  };
  Stats stats() const;

 private:
  class Impl;
  explicit HttpServer(std::shared_ptr<Impl> impl);
  const std::shared_ptr<Impl> impl_;
  std::string address_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_SERVER_H_
