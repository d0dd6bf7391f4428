// Threads run one io_context, and every connection has a strand on it (connection.h). A connection that the system has
// no descriptor or memory for stays in the listener's backlog and is accepted when there is room again: closing others
// for it would punish those who came first, and asking at once would spin.
#include "worker/serve/http/server.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <exception>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "base/status.h"
#include "base/thread.h"
#include "transport/address.h"
#include "worker/serve/http/asio.h"
#include "worker/serve/http/connection.h"
#include "worker/serve/http/connections.h"

namespace kvlink::serve {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(100);  // if the system has no room
// After so long without a sign of life, the system asks the client's whether it is still there; silent ones are gone.
constexpr int kSilentSeconds = 60, kAskAgainSeconds = 15, kAskTimes = 4;
constexpr absl::string_view kTooMany =
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

absl::Status Readable(const std::string& file) {
  std::error_code ignored;
  if (std::filesystem::exists(file, ignored)) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(file, ": there is no such file"));
}

absl::Status LoadTls(const HttpServer::Options& options, std::optional<asio::ssl::context>* tls) {
  KVLINK_RETURN_IF_ERROR(Readable(options.certificate));
  KVLINK_RETURN_IF_ERROR(Readable(options.key));
  asio::ssl::context& context = tls->emplace(asio::ssl::context::tls_server);
  error_code ec;
  context.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv3 |
                          asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1,
                      ec);
  if (!ec) context.use_certificate_chain_file(options.certificate, ec);
  if (ec) return absl::InvalidArgumentError(absl::StrCat(options.certificate, ": no certificate: ", ec.message()));
  context.use_private_key_file(options.key, asio::ssl::context::pem, ec);
  if (!ec) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(options.key, ": not the private key of ", options.certificate, ": ", ec.message()));
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const Options& options, Handler handler)
      : connections_(std::make_shared<Connections>(options, std::move(handler))),
        work_(asio::make_work_guard(connections_->io)),
        acceptor_(asio::make_strand(connections_->io)),
        pause_(acceptor_.get_executor()) {}

  absl::Status LoadCertificate() {
    const Options& options = connections_->options;
    if (options.certificate.empty() && options.key.empty()) return absl::OkStatus();
    return LoadTls(options, &connections_->tls);
  }
  // Returns the port. UNAVAILABLE.
  absl::StatusOr<uint16_t> Listen(const transport::SocketAddress& address);
  void Run();
  void Drain(absl::Time deadline);
  void Stop();
  Stats stats() const;

 private:
  void StopListening();
  void Accept();
  void OnAccept(const error_code& ec, Socket socket);

  const std::shared_ptr<Connections> connections_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  Acceptor acceptor_;  // with pause_, used on its strand once there are threads
  SteadyTimer pause_;
  std::vector<Thread> threads_;
};

absl::StatusOr<uint16_t> HttpServer::Impl::Listen(const transport::SocketAddress& address) {
  asio::ip::tcp::endpoint endpoint;
  std::memcpy(endpoint.data(), address.get(), std::min<size_t>(address.length, endpoint.capacity()));
  error_code ec;
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) acceptor_.set_option(asio::socket_base::reuse_address(true), ec);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
  if (!ec) endpoint = acceptor_.local_endpoint(ec);
  if (ec) return absl::UnavailableError(ec.message());
  // Connections inherit these. The user timeout bounds how long sent bytes may go without an acknowledgement.
  const int listener = acceptor_.native_handle();
  const int64_t within_ms = absl::ToInt64Milliseconds(connections_->options.write_timeout);
  const std::pair<std::pair<int, int>, int> kOptions[] = {
      {{IPPROTO_TCP, TCP_NODELAY}, 1},
      {{SOL_SOCKET, SO_KEEPALIVE}, 1},
      {{IPPROTO_TCP, TCP_KEEPIDLE}, kSilentSeconds},
      {{IPPROTO_TCP, TCP_KEEPINTVL}, kAskAgainSeconds},
      {{IPPROTO_TCP, TCP_KEEPCNT}, kAskTimes},
      {{IPPROTO_TCP, TCP_USER_TIMEOUT}, static_cast<int>(std::clamp<int64_t>(within_ms, 1, INT_MAX))},
  };
  for (const auto& [name, value] : kOptions) {
    (void)setsockopt(listener, name.first, name.second, &value, sizeof(value));
  }
  return endpoint.port();
}

void HttpServer::Impl::Run() {
  Accept();
  for (int i = 0; i < connections_->options.threads; ++i) {
    threads_.emplace_back("http", [this] {
      // What Asio and the library throw where they are out of memory ends what ran, and not the server.
      while (true) {
        try {
          connections_->io.run();
          return;
        } catch (const std::exception&) {
        }
      }
    });
  }
}

void HttpServer::Impl::Accept() {
  acceptor_.async_accept(asio::make_strand(connections_->io), [this](const error_code& ec, Socket socket) {
    if (acceptor_.is_open()) OnAccept(ec, std::move(socket));
  });
}

void HttpServer::Impl::OnAccept(const error_code& ec, Socket socket) {
  if (ec && ec != asio::error::connection_aborted && ec != asio::error::interrupted) {
    pause_.expires_at(ToSteadyClock(SteadyNow() + kPause));
    pause_.async_wait([this](const error_code&) {
      if (acceptor_.is_open()) Accept();
    });
    return;
  }
  if (!ec) {
    const auto connection = std::make_shared<Connection>(connections_, std::move(socket));
    if (connections_->Add(connection)) {
      ++connections_->accepted;
      connection->Start();
    } else {
      ++connections_->refused;
      if (!connections_->tls.has_value()) connection->TurnAway(kTooMany);
    }
  }
  Accept();
}

void HttpServer::Impl::StopListening() {
  asio::post(acceptor_.get_executor(), [this] {
    error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
  });
}

void HttpServer::Impl::Drain(absl::Time deadline) {
  *connections_->draining = true;
  StopListening();
  for (const auto& connection : connections_->Close()) connection->Drain();
  connections_->WaitUntilNone(deadline);
}

void HttpServer::Impl::Stop() {
  StopListening();
  for (const auto& connection : connections_->Close()) connection->Close();
  work_.reset();
  threads_.clear();
}

HttpServer::Stats HttpServer::Impl::stats() const {
  Stats stats;
  stats.connections = connections_->size();
  stats.accepted = connections_->accepted;
  stats.refused = connections_->refused;
  stats.requests = connections_->requests;
  stats.malformed = connections_->malformed;
  stats.timed_out = connections_->timed_out;
  stats.gone = connections_->gone;
  return stats;
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const Options& options, Handler handler) {
  // Beast's limits are 32 bits, and those of one header field 16.
  if (options.threads < 1 || options.max_header_bytes < 1 || options.max_header_bytes > 65535) {
    return absl::InvalidArgumentError("an HTTP server needs a thread, and headers of at most 65535 bytes");
  }
  if (!BodyBudget(options.max_bodies_bytes).Has("", options.max_body_bytes, options.max_body_bytes)) {
    return absl::InvalidArgumentError("max_body_bytes is more than one client may take of max_bodies_bytes");
  }
  if (options.certificate.empty() != options.key.empty()) {
    return absl::InvalidArgumentError("TLS needs a certificate and its key; only one is named");
  }
  KVLINK_ASSIGN_OR_RETURN(const transport::Address named, transport::ParseAddress(options.address));
  KVLINK_ASSIGN_OR_RETURN(const transport::SocketAddress resolved, transport::Resolve(named));
  Options limited = options;  // what else the process does needs descriptors, too
  limited.max_connections = std::min(options.max_connections, RaiseDescriptorLimit() / 4);
  std::unique_ptr<HttpServer> server;
  try {
    server.reset(new HttpServer(std::make_shared<Impl>(limited, std::move(handler))));
    KVLINK_RETURN_IF_ERROR(server->impl_->LoadCertificate());
    auto port = server->impl_->Listen(resolved);
    if (!port.ok()) return Annotate(port.status(), absl::StrCat("cannot listen on ", options.address));
    server->address_ = absl::StrCat(options.address.substr(0, options.address.rfind(':')), ":", *port);
    server->impl_->Run();
  } catch (const std::exception& error) {  // out of descriptors, threads or memory
    return absl::UnavailableError(absl::StrCat("cannot serve at ", options.address, ": ", error.what()));
  }
  return server;
}

HttpServer::HttpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() { impl_->Stop(); }
void HttpServer::Drain(absl::Time deadline) { impl_->Drain(deadline); }
HttpServer::Stats HttpServer::stats() const { return impl_->stats(); }

}  // namespace kvlink::serve
