// Credentials for connections over gRPC, made from TlsOptions. The files are read once, here.
// Thread-safety: all functions may be called from any thread.
#ifndef KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_
#define KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/tls.h"

namespace kvlink::transport {

// Plain text if the options are empty. INVALID_ARGUMENT: a required file is not given, cannot be read, or holds no PEM.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentials(const TlsOptions& options);
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsOptions& options);

// Checks whether a client may connect to `address` ("host:port") with these options. Returns the errors of
// ChannelCredentials, and FAILED_PRECONDITION if a key would travel in plain text to another host and `insecure` is not
// set.
absl::Status CheckSecrecy(const TlsOptions& options, const std::string& address, bool sends_key);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_
