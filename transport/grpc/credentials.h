// Credentials of connections over gRPC, from TlsOptions. Files are read once, here.
// Thread-safety: functions that may be called from any thread.
#ifndef KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_
#define KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/tls.h"

namespace kvlink::transport {

// Plain text where the options are empty. INVALID_ARGUMENT: a file is missing from the options, cannot be read, or
// holds no PEM.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentials(const TlsOptions& options);
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsOptions& options);

// Whether a client may connect to `address` ("host:port") like this: the errors of ChannelCredentials, and
// FAILED_PRECONDITION where it would send a key in plain text to another host and nobody allowed that.
absl::Status CheckSecrecy(const TlsOptions& options, const std::string& address, bool sends_key);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_
