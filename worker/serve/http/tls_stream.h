// TLS over the socket of a connection. OpenSSL reads from the socket and writes to it by itself, and has buffers only
// while something is in them; asio::ssl::stream keeps 68 KiB of them for every connection, also for one that waits.
//
// Thread-safety: the socket's strand, on which `done` is called. At most one operation that reads and one that writes
// at a time; Handshake is both. Lifetime: the context and the socket outlive the stream; `done` keeps it alive.
#ifndef KVLINK_WORKER_SERVE_HTTP_TLS_STREAM_H_
#define KVLINK_WORKER_SERVE_HTTP_TLS_STREAM_H_

#include <openssl/ssl.h>

#include <cstddef>
#include <functional>
#include <memory>

#include "worker/serve/http/asio.h"

namespace kvlink::serve {

class TlsStream {
 public:
  // Called once, and never by the method that it was passed to.
  using Done = std::function<void(const error_code&, size_t bytes)>;

  // The server's side. Null if memory is short.
  static std::unique_ptr<TlsStream> Create(asio::ssl::context* context, Socket* socket);

  void Handshake(Done done);
  // asio::error::eof: the client has said that it ends; stream_truncated: it has closed its side without saying so.
  void ReadSome(asio::mutable_buffer to, Done done);
  // `from` stays as it is until `done`.
  void WriteSome(asio::const_buffer from, Done done);
  // Says that nothing more will be sent. Does not wait for the client to say so, too.
  void ShutDown(Done done);

 private:
  // Does what it can do now: the bytes that it moved, 1 if there are none to move; 0 or less: see SSL_get_error.
  using Step = std::function<int(SSL*)>;
  struct Calls;  // by which OpenSSL uses the socket

  explicit TlsStream(Socket* socket) : socket_(*socket), tls_(nullptr, SSL_free) {}
  // Repeats `step` until the socket lets it.
  void Run(Step step, Done done, bool first = true);
  error_code ErrorOf(int kind) const;

  Socket& socket_;
  std::unique_ptr<SSL, void (*)(SSL*)> tls_;
  error_code failed_;  // the socket, in the present step
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_TLS_STREAM_H_
