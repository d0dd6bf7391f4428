// One connection: reads a request, hands it to the handler, sends the response, and begins again.
//
// Thread-safety: Start, Drain and Close may be called by any thread. Lifetime: kept by the set of connections from
// Start() until it is closed, and by its pending operations.
#ifndef KVLINK_WORKER_SERVE_HTTP_CONNECTION_H_
#define KVLINK_WORKER_SERVE_HTTP_CONNECTION_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "worker/serve/http/asio.h"
#include "worker/serve/http/connections.h"
#include "worker/serve/http/request_parser.h"
#include "worker/serve/http/response.h"
#include "worker/serve/http/tls_stream.h"

namespace kvlink::serve {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Connections> connections, Socket socket);
  // REQUIRES: it was added to the connections.
  void Start();
  // Instead of Start(): sends as much of `answer` as the system takes at once.
  void TurnAway(absl::string_view answer);
  // Ends the connection as soon as no request is under way.
  void Drain();
  void Close();

 private:
  enum class Phase : uint8_t {
    kHandshake,  // TLS
    kHeader,     // of a request, whose first byte may not have come
    kBody,
    kResponding,  // the handler has the request, or bytes of the response remain to be sent
    kIdle,        // between two requests
    kLingering,   // all is sent; waits for the client to close, so that it can read to the end
  };

  // All below run on the strand.
  void Handshake();
  void Read();
  void OnRead(const error_code& ec, size_t bytes);
  void Parse();
  void Dispatch();
  void Refuse(const Refusal& refusal);
  void SendContinue();

  void Flush();
  void Send();
  void OnSent(const error_code& ec, size_t bytes);
  void FinishResponse();
  void Linger();
  void ShutDown();
  void Fail(const error_code& ec);
  void CloseNow();

  std::shared_ptr<Response> NewResponse(RequestParser::Parsed parsed);
  // Replaces the deadline; infinite: none.
  void SetTimeout(absl::Duration timeout);
  // The handler may take its time, and nothing remains to be sent.
  void AwaitHandler();
  void ArmTimer();
  void OnTimeout();

  const std::shared_ptr<Connections> connections_;
  Socket socket_;
  std::string peer_;                // its address
  std::unique_ptr<TlsStream> tls_;  // null: plain
  SteadyTimer timer_;
  absl::Time deadline_ = absl::InfiniteFuture();
  absl::Time timer_at_ = absl::InfiniteFuture();  // when the timer looks at the deadline
  Phase phase_ = Phase::kHandshake;
  bool closed_ = false;

  bool reading_ = false;
  bool input_ended_ = false;
  std::array<char, 8192> piece_;           // what a read fills
  std::string input_;                      // read and not yet parsed
  int64_t step_bytes_ = 0;                 // of a body, since its deadline was set
  std::unique_ptr<RequestParser> parser_;  // from the first byte of a request to its last
  std::shared_ptr<Response> response_;     // in kResponding

  bool sending_ = false;
  bool sending_response_ = false;  // otherwise "100 Continue"
  std::string output_;             // being sent
  size_t sent_ = 0;                // of output_
  bool shutting_down_ = false;     // TLS
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_CONNECTION_H_
