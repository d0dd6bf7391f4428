// gRPC reports a file that is not PEM only when the first connection fails, and then without its name. So the files are
// checked here, where the message can name them.
#include "transport/grpc/credentials.h"

#include <fstream>
#include <sstream>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "transport/address.h"

namespace kvlink::transport {
namespace {

absl::StatusOr<std::string> ReadPem(const char* what, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read the TLS ", what, " ", path));
  }
  if (!absl::StrContains(text.str(), "-----BEGIN ")) {
    return absl::InvalidArgumentError(absl::StrCat("the TLS ", what, " ", path, " is not in PEM format"));
  }
  return text.str();
}

struct Pem {
  std::string ca, certificate, key;
};

absl::StatusOr<Pem> ReadAll(const TlsOptions& options) {
  if (options.certificate_file.empty() != options.key_file.empty()) {
    return absl::InvalidArgumentError("a TLS certificate and its key are given together");
  }
  Pem pem;
  if (!options.ca_file.empty()) {
    KVLINK_ASSIGN_OR_RETURN(pem.ca, ReadPem("certificate of the authority", options.ca_file));
  }
  if (!options.certificate_file.empty()) {
    KVLINK_ASSIGN_OR_RETURN(pem.certificate, ReadPem("certificate", options.certificate_file));
    KVLINK_ASSIGN_OR_RETURN(pem.key, ReadPem("key", options.key_file));
  }
  return pem;
}

bool ReachesThisHostOnly(const std::string& address) {
  const auto parsed = ParseAddress({address.data(), address.size()});
  if (!parsed.ok()) return false;
  const auto resolved = ResolveAll(*parsed);  // gRPC may use any of them
  return resolved.ok() && absl::c_all_of(*resolved, IsLoopback);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentials(const TlsOptions& options) {
  if (!options.enabled()) return grpc::InsecureChannelCredentials();
  KVLINK_ASSIGN_OR_RETURN(const Pem pem, ReadAll(options));
  if (pem.ca.empty()) {
    return absl::InvalidArgumentError("TLS needs the certificate of the authority that signed the node's");
  }
  return grpc::SslCredentials({pem.ca, pem.key, pem.certificate});
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsOptions& options) {
  if (!options.enabled()) return grpc::InsecureServerCredentials();
  KVLINK_ASSIGN_OR_RETURN(const Pem pem, ReadAll(options));
  if (pem.certificate.empty()) return absl::InvalidArgumentError("TLS needs a certificate and its key for the node");
  grpc::SslServerCredentialsOptions ssl(pem.ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                       : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = pem.ca;
  ssl.pem_key_cert_pairs.push_back({pem.key, pem.certificate});
  return grpc::SslServerCredentials(ssl);
}

absl::Status CheckSecrecy(const TlsOptions& options, const std::string& address, bool sends_key) {
  KVLINK_RETURN_IF_ERROR(ChannelCredentials(options).status());
  if (options.enabled() || options.insecure || !sends_key || ReachesThisHostOnly(address)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the key would travel to ", address, " in plain text: give the certificate of the authority, or allow it"));
}

}  // namespace kvlink::transport
