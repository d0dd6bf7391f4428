// A read is pending nearly all the time, also while the handler works: it shows that the client has gone. What it
// brings then belongs to the next request and waits. A client that sends much ahead is not read from until its turn, so
// the system is asked now and then whether it is still there.
//
// One timer serves all deadlines. It is not set anew with every byte: when it fires, it looks at the deadline, which
// may have moved on.
//
// A connection is closed in two steps, since a socket that is closed with unread bytes takes away from the client what
// it has not yet read: first no more is sent, then the client closes, or has had its time.
#include "worker/serve/http/connection.h"

#include <poll.h>

#include <utility>

#include "base/clock.h"

namespace kvlink::serve {
namespace {

constexpr size_t kMaxAhead = 8192;         // bytes of later requests
constexpr size_t kMaxKeptCapacity = 8192;  // of buffers that are empty
constexpr int64_t kStepBytes = 1 << 20;    // of a body, within body_timeout
constexpr absl::Duration kLinger = absl::Seconds(2);
constexpr absl::Duration kLook = absl::Seconds(1);  // at a client that is not read from

// Whether the client has closed its side, also behind bytes that are not yet read.
bool HasEnded(int descriptor) {
  pollfd one = {descriptor, POLLRDHUP, 0};
  return poll(&one, 1, 0) > 0;
}

// Assigning an empty string would leave the memory with the buffer.
void Free(std::string* buffer) { std::string().swap(*buffer); }

void Clear(std::string* buffer) {
  buffer->clear();
  if (buffer->capacity() > kMaxKeptCapacity) Free(buffer);
}

}  // namespace

Connection::Connection(std::shared_ptr<Connections> connections, Socket socket)
    : connections_(std::move(connections)), socket_(std::move(socket)), timer_(socket_.get_executor()) {
  error_code ec;
  const asio::ip::tcp::endpoint peer = socket_.remote_endpoint(ec);
  if (!ec) peer_ = peer.address().to_string();
}

void Connection::Start() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (!self->closed_) self->Handshake();
  });
}

void Connection::TurnAway(absl::string_view answer) {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.send(asio::buffer(answer.data(), answer.size()), 0, ignored);
  socket_.shutdown(asio::socket_base::shutdown_send, ignored);
}

void Connection::Drain() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->closed_) return;
    const bool waiting = self->phase_ == Phase::kHeader || self->phase_ == Phase::kIdle;
    if (waiting && self->parser_ == nullptr) self->Linger();
  });
}

void Connection::Close() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->CloseNow(); });
}

void Connection::Handshake() {
  const auto begin = [this] {
    phase_ = Phase::kHeader;
    if (*connections_->draining) return Linger();
    SetTimeout(connections_->options.header_timeout);
    Read();
  };
  if (!connections_->tls.has_value()) return begin();
  tls_ = TlsStream::Create(&*connections_->tls, &socket_);
  if (tls_ == nullptr) return CloseNow();
  SetTimeout(connections_->options.header_timeout);
  tls_->Handshake([self = shared_from_this(), begin](const error_code& ec, size_t) {
    if (self->closed_) return;
    ec ? self->CloseNow() : begin();
  });
}

void Connection::Read() {
  if (reading_) return;
  reading_ = true;
  const auto done = [self = shared_from_this()](const error_code& ec, size_t bytes) {
    self->reading_ = false;
    if (!self->closed_) self->OnRead(ec, bytes);
  };
  if (input_ended_) {  // Asio would wait for an event that does not come again
    asio::post(socket_.get_executor(), [done] { done(asio::error::eof, 0); });
  } else if (tls_ != nullptr && phase_ != Phase::kLingering) {
    tls_->ReadSome(asio::buffer(piece_), done);
  } else {
    socket_.async_read_some(asio::buffer(piece_), done);
  }
}

void Connection::OnRead(const error_code& ec, size_t bytes) {
  if (phase_ == Phase::kLingering) {
    if (ec) return CloseNow();
    if (!shutting_down_) Read();
    return;
  }
  if (ec) {
    // A client that has sent its last request may close its side before it reads the answer.
    input_ended_ = ec == asio::error::eof || ec == asio::ssl::error::stream_truncated;
    if (input_ended_ && phase_ == Phase::kResponding && response_->ended()) return;
    return Fail(ec);
  }
  input_.append(piece_.data(), bytes);
  switch (phase_) {
    case Phase::kResponding:
      if (input_.size() < kMaxAhead) {
        Read();
      } else if (!sending_) {
        AwaitHandler();
      }
      return;
    case Phase::kIdle:
      phase_ = Phase::kHeader;
      SetTimeout(connections_->options.header_timeout);
      return Parse();
    case Phase::kBody:
      step_bytes_ += static_cast<int64_t>(bytes);
      if (step_bytes_ >= kStepBytes) {
        step_bytes_ = 0;
        SetTimeout(connections_->options.body_timeout);
      }
      return Parse();
    default:
      return Parse();
  }
}

void Connection::Parse() {
  const HttpServer::Options& options = connections_->options;
  if (parser_ == nullptr) {
    parser_ = std::make_unique<RequestParser>(options, connections_->bodies, peer_);
  }
  input_.erase(0, parser_->Put(input_));
  switch (parser_->state()) {
    case RequestParser::State::kBody:
      if (phase_ != Phase::kBody) {
        phase_ = Phase::kBody;
        step_bytes_ = 0;
        SetTimeout(options.body_timeout);
        if (parser_->expects_continue() && input_.empty()) SendContinue();
      }
      return Read();
    case RequestParser::State::kHeader:
      return Read();
    case RequestParser::State::kComplete:
      return Dispatch();
    case RequestParser::State::kRefused:
      ++connections_->malformed;
      return Refuse(parser_->refusal());
  }
}

std::shared_ptr<Response> Connection::NewResponse(RequestParser::Parsed parsed) {
  auto wake = [weak = weak_from_this()] {
    const std::shared_ptr<Connection> self = weak.lock();
    if (self == nullptr) return;
    asio::post(self->socket_.get_executor(), [self] { self->Flush(); });
  };
  return std::make_shared<Response>(std::move(parsed.request), std::move(parsed.charge), parsed.framing,
                                    connections_->options.max_unread_bytes, connections_->draining, std::move(wake));
}

void Connection::Dispatch() {
  RequestParser::Parsed parsed = parser_->Take();
  parser_.reset();
  if (input_.empty()) Clear(&input_);
  phase_ = Phase::kResponding;
  if (!sending_) AwaitHandler();
  ++connections_->requests;
  response_ = NewResponse(std::move(parsed));
  connections_->handler(MakeExchange(response_));
  if (input_.size() < kMaxAhead) Read();
}

// Whatever else the client has sent is not understood any more.
void Connection::Refuse(const Refusal& refusal) {
  RequestParser::Parsed nothing;
  phase_ = Phase::kResponding;
  response_ = NewResponse(std::move(nothing));
  response_->Refuse(refusal);
  parser_.reset();
  Flush();
}

void Connection::SendContinue() {
  output_ = "HTTP/1.1 100 Continue\r\n\r\n";
  sending_response_ = false;
  Send();
}

void Connection::Flush() {
  if (closed_ || phase_ != Phase::kResponding) return;
  const Response::State state = sending_ ? response_->state() : response_->Take(&output_);
  if (state == Response::State::kUnread) {
    ++connections_->timed_out;
    return CloseNow();
  }
  if (sending_) return;
  if (!output_.empty()) {
    sending_response_ = true;
    SetTimeout(connections_->options.write_timeout);
    return Send();
  }
  if (state == Response::State::kComplete) return FinishResponse();
  if (state == Response::State::kCutOff) return CloseNow();
}

void Connection::Send() {
  sending_ = true;
  const auto done = [self = shared_from_this()](const error_code& ec, size_t bytes) {
    if (!self->closed_) self->OnSent(ec, bytes);
  };
  const auto rest = asio::buffer(output_.data() + sent_, output_.size() - sent_);
  if (tls_ != nullptr) {
    tls_->WriteSome(rest, done);
  } else {
    socket_.async_write_some(rest, done);
  }
}

void Connection::OnSent(const error_code& ec, size_t bytes) {
  if (ec) return Fail(ec);
  sent_ += bytes;
  if (sending_response_) response_->Sent(bytes);
  const bool responding = phase_ == Phase::kResponding;
  if (sent_ < output_.size()) {
    if (responding) SetTimeout(connections_->options.write_timeout);
    return Send();
  }
  sending_ = false;
  sent_ = 0;
  Clear(&output_);
  if (!responding) return;
  AwaitHandler();
  Flush();
}

void Connection::FinishResponse() {
  const bool keep_alive = response_->keep_alive() && !*connections_->draining;
  response_.reset();
  if (!keep_alive) return Linger();
  if (input_.empty()) {
    phase_ = Phase::kIdle;
    SetTimeout(connections_->options.idle_timeout);
    return Read();
  }
  phase_ = Phase::kHeader;
  SetTimeout(connections_->options.header_timeout);
  Parse();
}

void Connection::Linger() {
  phase_ = Phase::kLingering;
  SetTimeout(kLinger);
  Free(&input_);
  if (tls_ == nullptr) return ShutDown();
  shutting_down_ = true;
  tls_->ShutDown([self = shared_from_this()](const error_code&, size_t) {
    self->shutting_down_ = false;
    if (!self->closed_) self->ShutDown();
  });
}

void Connection::ShutDown() {
  error_code ignored;
  socket_.shutdown(asio::socket_base::shutdown_send, ignored);
  Read();
}

void Connection::Fail(const error_code& ec) {
  if (ec == asio::error::timed_out) ++connections_->timed_out;  // the system has sent for long without an answer
  CloseNow();
}

void Connection::CloseNow() {
  if (closed_) return;
  closed_ = true;
  error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
  parser_.reset();
  if (response_ != nullptr && response_->Close()) ++connections_->gone;
  response_.reset();
  connections_->Remove(shared_from_this());
}

void Connection::SetTimeout(absl::Duration timeout) {
  deadline_ = timeout == absl::InfiniteDuration() ? absl::InfiniteFuture() : SteadyNow() + timeout;
  if (deadline_ < timer_at_) ArmTimer();
}

void Connection::AwaitHandler() { SetTimeout(input_.size() < kMaxAhead ? absl::InfiniteDuration() : kLook); }

void Connection::ArmTimer() {
  timer_at_ = deadline_;
  timer_.expires_at(ToSteadyClock(deadline_));
  timer_.async_wait([self = shared_from_this()](const error_code& ec) {
    if (ec || self->closed_) return;
    self->timer_at_ = absl::InfiniteFuture();
    if (self->deadline_ == absl::InfiniteFuture()) return;
    if (SteadyNow() < self->deadline_) return self->ArmTimer();
    self->OnTimeout();
  });
}

void Connection::OnTimeout() {
  deadline_ = absl::InfiniteFuture();
  if (phase_ == Phase::kIdle) return Linger();
  if (phase_ == Phase::kLingering) return CloseNow();
  if (phase_ == Phase::kResponding && !sending_) {
    return HasEnded(socket_.native_handle()) && !response_->ended() ? CloseNow() : AwaitHandler();
  }
  ++connections_->timed_out;
  const bool receiving = parser_ != nullptr && (phase_ == Phase::kHeader || phase_ == Phase::kBody);
  if (!receiving) return CloseNow();
  Refuse({408, "the request did not arrive in time"});
}

}  // namespace kvlink::serve
