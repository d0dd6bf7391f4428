// Asio's operations on the calling thread, which runs them until the answer is there or the time is over. What comes is
// read by Beast's parser, within its limits.
#include "worker/serve/trace/collector.h"

#include <algorithm>
#include <array>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/address.h"
#include "worker/serve/http/asio.h"

namespace kvlink::serve {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(100);  // how often `until` is asked
constexpr absl::Duration kMaxRetryAfter = absl::Minutes(5);
constexpr size_t kMaxAnswerHeader = 8 << 10, kMaxAnswer = 64 << 10;  // bytes
constexpr absl::string_view kTracesPath = "/v1/traces";

bool IsSuccess(int status) { return status >= 200 && status < 300; }

}  // namespace

absl::StatusOr<CollectorUrl> ParseCollectorUrl(absl::string_view url) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("'", url, "' is no address of a collector: give http://HOST:PORT or https://HOST:PORT"));
  };
  CollectorUrl parsed;
  absl::string_view rest = url;
  if (absl::ConsumePrefix(&rest, "https://")) {
    parsed.tls = true;
  } else if (!absl::ConsumePrefix(&rest, "http://")) {
    return wrong();
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  absl::string_view path = rest.substr(slash), authority = rest.substr(0, slash);
  while (absl::ConsumeSuffix(&path, "/")) {
  }
  for (const char c : path) {
    if (!absl::ascii_isgraph(c) || c == '?' || c == '#') return wrong();
  }
  const bool with_port = authority.rfind(':') != absl::string_view::npos && !absl::EndsWith(authority, "]");
  const auto address = transport::ParseAddress(with_port ? std::string(authority)
                                                         : absl::StrCat(authority, parsed.tls ? ":443" : ":80"));
  if (!address.ok() || address->port == 0 || address->host.empty()) return wrong();
  for (const char c : address->host) {
    if (!absl::ascii_isgraph(c) || c == '@') return wrong();
  }
  parsed.host = address->host;
  parsed.port = address->port;
  parsed.path = absl::StrCat(path, kTracesPath);
  return parsed;
}

struct Collector::Tls {
  asio::ssl::context context{asio::ssl::context::tls_client};
};

// One request on its way, and its answer. Its handlers run in Run only.
class Collector::Exchange {
 public:
  Exchange(const CollectorUrl& url, Tls* tls, std::vector<transport::SocketAddress> addresses, std::string request)
      : url_(url), addresses_(std::move(addresses)), request_(std::move(request)), socket_(asio::make_strand(io_)) {
    parser_.header_limit(static_cast<std::uint32_t>(kMaxAnswerHeader));
    parser_.body_limit(static_cast<std::uint64_t>(kMaxAnswer));
    if (tls != nullptr) tls_.emplace(socket_, tls->context);
  }

  absl::StatusOr<Answer> Run(const std::function<absl::Time()>& until) {
    Connect();
    while (!status_.has_value()) {
      const absl::Time now = SteadyNow(), end = until();
      if (now >= end) break;
      io_.run_one_until(ToSteadyClock(std::min(end, now + kLook)));
    }
    // What came after the header of an answer changes nothing about it.
    if (parser_.is_header_done()) return TakeAnswer();
    if (!status_.has_value()) return absl::DeadlineExceededError("the collector does not answer in time");
    return *status_;
  }

 private:
  // Ends the exchange.
  void End(absl::Status status) { status_ = std::move(status); }
  void Fail(absl::string_view what, const error_code& ec) {
    End(absl::UnavailableError(absl::StrCat(what, ": ", ec.message())));
  }

  // To the next address.
  void Connect() {
    asio::ip::tcp::endpoint endpoint;
    const transport::SocketAddress& address = addresses_[next_++];
    std::memcpy(endpoint.data(), address.get(), std::min<size_t>(address.length, endpoint.capacity()));
    endpoint.resize(address.length);
    error_code ignored;
    socket_.close(ignored);
    socket_.async_connect(endpoint, [this](const error_code& ec) {
      if (!ec) return tls_.has_value() ? Handshake() : Send();
      next_ < addresses_.size() ? Connect() : Fail("no connection to the collector", ec);
    });
  }

  void Handshake() {
    tls_->set_verify_mode(asio::ssl::verify_peer);
    SSL* const ssl = tls_->native_handle();
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), url_.host.c_str()) != 1) {  // it is a name
      SSL_set1_host(ssl, url_.host.c_str());
      SSL_set_tlsext_host_name(ssl, url_.host.c_str());
    }
    tls_->async_handshake(asio::ssl::stream_base::client,
                          [this](const error_code& ec) { ec ? Fail("no TLS with the collector", ec) : Send(); });
  }

  void Send() {
    const auto done = [this](const error_code& ec, size_t bytes) {
      sent_ += bytes;
      // A collector may answer and close before it has read all.
      ec || sent_ == request_.size() ? Receive() : Send();
    };
    const auto rest = asio::buffer(request_.data() + sent_, request_.size() - sent_);
    tls_.has_value() ? tls_->async_write_some(rest, done) : socket_.async_write_some(rest, done);
  }

  void Receive() {
    const auto done = [this](const error_code& ec, size_t bytes) { OnReceived(ec, bytes); };
    const auto room = asio::buffer(piece_.data() + kept_, piece_.size() - kept_);
    tls_.has_value() ? tls_->async_read_some(room, done) : socket_.async_read_some(room, done);
  }

  void OnReceived(const error_code& ec, size_t bytes) {
    if (ec) return Fail("the collector closed the connection before it answered", ec);
    kept_ += bytes;
    received_ += bytes;
    size_t used = 0;
    error_code error;
    while (used < kept_ && !parser_.is_done()) {
      const size_t taken = parser_.put(asio::const_buffer(piece_.data() + used, kept_ - used), error);
      used += taken;
      if (parser_.is_header_done()) {
        if (!IsSuccess(parser_.get().result_int())) return End(absl::OkStatus());
        parser_.eager(true);
      }
      if (error || taken == 0) break;
    }
    std::memmove(piece_.data(), piece_.data() + used, kept_ - used);
    kept_ -= used;
    const bool wrong = error && error != boost::beast::http::error::need_more;
    if (parser_.is_done()) return End(absl::OkStatus());
    if (wrong || kept_ == piece_.size() || received_ > kMaxAnswer) {
      return End(absl::DataLossError("what answers at the collector's address does not speak HTTP"));
    }
    Receive();
  }

  Answer TakeAnswer() {
    auto& message = parser_.get();
    Answer answer;
    answer.status = static_cast<int>(message.result_int());
    answer.body = std::move(message.body());
    const auto after = message[boost::beast::http::field::retry_after];
    int64_t seconds = 0;  // a date is not understood
    if (absl::SimpleAtoi(absl::string_view(after.data(), after.size()), &seconds)) {
      answer.retry_after = std::clamp(absl::Seconds(seconds), absl::ZeroDuration(), kMaxRetryAfter);
    }
    return answer;
  }

  const CollectorUrl& url_;
  const std::vector<transport::SocketAddress> addresses_;
  const std::string request_;
  asio::io_context io_{1};
  Socket socket_;
  std::optional<asio::ssl::stream<Socket&>> tls_;
  size_t next_ = 0;  // of addresses_
  size_t sent_ = 0;
  std::array<char, kMaxAnswerHeader> piece_;  // a header is parsed at once
  size_t kept_ = 0;                           // of piece_, received and not yet parsed
  size_t received_ = 0;                       // in all
  boost::beast::http::response_parser<boost::beast::http::string_body> parser_;
  std::optional<absl::Status> status_;  // once it has ended
};

Collector::Collector(CollectorUrl url) : url_(std::move(url)) {}
Collector::~Collector() = default;

absl::StatusOr<std::unique_ptr<Collector>> Collector::Create(CollectorUrl url, const std::string& authorities) {
  std::unique_ptr<Collector> collector(new Collector(std::move(url)));
  if (!collector->url_.tls) return collector;
  try {
    collector->tls_ = std::make_unique<Tls>();
  } catch (const std::exception& error) {
    return absl::ResourceExhaustedError(absl::StrCat("TLS of the collector: ", error.what()));
  }
  error_code ec;
  authorities.empty() ? collector->tls_->context.set_default_verify_paths(ec)
                      : collector->tls_->context.load_verify_file(authorities, ec);
  if (ec) return absl::InvalidArgumentError(absl::StrCat(authorities, ": no certificates: ", ec.message()));
  return collector;
}

absl::StatusOr<Collector::Answer> Collector::Post(absl::string_view body, const std::function<absl::Time()>& until) {
  const transport::Address address{url_.host, url_.port};
  KVLINK_ASSIGN_OR_RETURN(std::vector<transport::SocketAddress> addresses, transport::ResolveAll(address));
  std::string request = absl::StrCat(
      "POST ", url_.path, " HTTP/1.1\r\nHost: ", address.ToString(),
      "\r\nContent-Type: application/json\r\nConnection: close\r\nUser-Agent: kvlink\r\nContent-Length: ", body.size(),
      "\r\n\r\n", body);
  try {  // as Asio does where descriptors or memory are short
    return Exchange(url_, tls_.get(), std::move(addresses), std::move(request)).Run(until);
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("no connection to the collector: ", error.what()));
  }
}

}  // namespace kvlink::serve
