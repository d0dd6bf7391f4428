// gRPC's C++ interface has no server credentials that change, except by its own reading of files (tls_files.cc says why
// not). Its C interface has: a function that is asked for newer contents before each handshake.
#include "transport/grpc/credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include <list>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/address.h"
#include "transport/grpc/tls_files.h"

namespace kvlink::transport {
namespace {

class FollowingServerCredentials : public grpc::ServerCredentials {
 public:
  FollowingServerCredentials(TlsFiles* files, bool ask_clients) : files_(files), ask_clients_(ask_clients) {}
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  struct Port {
    TlsFiles* files;
    std::shared_ptr<const Pem> used;
  };

  int AddPortToServer(const std::string& address, grpc_server* server) override {
    ports_.push_back({files_, nullptr});
    grpc_server_credentials* const credentials =
        grpc_ssl_server_credentials_create_with_options(grpc_ssl_server_credentials_create_options_using_config_fetcher(
            ask_clients_ ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                         : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            &FollowingServerCredentials::Fetch, &ports_.back()));
    const int port = grpc_server_add_http2_port(server, address.c_str(), credentials);
    grpc_server_credentials_release(credentials);
    return port;
  }
  // gRPC calls it for one port at a time.
  static grpc_ssl_certificate_config_reload_status Fetch(void* user, grpc_ssl_server_certificate_config** config) {
    auto* const port = static_cast<Port*>(user);
    std::shared_ptr<const Pem> pem = port->files->Current();
    if (pem == port->used) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair{pem->key.c_str(), pem->certificate.c_str()};
    // gRPC 1.51 asserts that there are authorities, even if it is not to ask for what they sign.
    const std::string& ca = pem->ca.empty() ? pem->certificate : pem->ca;
    *config = grpc_ssl_server_certificate_config_create(ca.c_str(), &pair, 1);
    port->used = std::move(pem);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  TlsFiles* const files_;
  const bool ask_clients_;
  std::list<Port> ports_;
};

bool ReachesThisHostOnly(const std::string& address) {
  const auto parsed = ParseAddress({address.data(), address.size()});
  if (!parsed.ok()) return false;
  const auto resolved = ResolveAll(*parsed);  // gRPC may use any of them
  return resolved.ok() && absl::c_all_of(*resolved, IsLoopback);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentials(const TlsOptions& options) {
  if (!options.enabled()) return grpc::InsecureChannelCredentials();
  KVLINK_ASSIGN_OR_RETURN(TlsFiles* const files, TlsFiles::Of(options));
  if (options.ca_file.empty()) {
    return absl::InvalidArgumentError("TLS needs the CA certificate that signed the server's certificate");
  }
  return files->Client();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsOptions& options) {
  if (!options.enabled()) return grpc::InsecureServerCredentials();
  KVLINK_ASSIGN_OR_RETURN(TlsFiles* const files, TlsFiles::Of(options));
  if (options.certificate_file.empty()) {
    return absl::InvalidArgumentError("TLS needs a certificate and its key for the node");
  }
  return std::make_shared<FollowingServerCredentials>(files, !options.ca_file.empty());
}

std::shared_ptr<grpc::ChannelCredentials> NewerCredentials(const TlsOptions& options,
                                                           const std::shared_ptr<grpc::ChannelCredentials>& used) {
  if (!options.enabled()) return nullptr;
  auto now = ChannelCredentials(options);
  return now.ok() && *now != used ? *std::move(now) : nullptr;
}

std::vector<TlsState> TlsStates() {
  std::vector<TlsState> states;
  for (TlsFiles* const files : TlsFiles::All()) states.push_back(files->State(SteadyNow()));
  return states;
}

std::string TlsTrouble(const TlsOptions& options) {
  if (!options.enabled()) return "";
  const auto files = TlsFiles::Of(options);
  if (!files.ok()) return "";
  const absl::Status status = (*files)->State(SteadyNow()).status;
  return status.ok()
             ? ""
             : absl::StrCat("; the TLS files cannot be used now, and the old ones are in use: ", status.message());
}

absl::Status CheckSecrecy(const TlsOptions& options, const std::string& address, bool sends_key) {
  KVLINK_RETURN_IF_ERROR(ChannelCredentials(options).status());
  if (options.enabled() || options.insecure || !sends_key || ReachesThisHostOnly(address)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the key would travel to ", address, " in plain text: give a CA certificate, or allow it"));
}

}  // namespace kvlink::transport
