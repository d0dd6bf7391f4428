// Credentials for connections over gRPC, made from TlsOptions. They follow the files: when certificates are renewed,
// connections made from then on use them, and existing ones are not disturbed. New contents that cannot be used are
// not used: the last good ones are (tls_files.h).
// Thread-safety: all functions may be called from any thread. Each reads files only if they are named for the first
// time in this process, as ChannelCredentials or ServerCredentials should do when it starts.
#ifndef KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_
#define KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/tls.h"

namespace kvlink::transport {

// Plain text if the options are empty. INVALID_ARGUMENT: a required file is not given, or the files could not be used
// when they were first named in this process: one cannot be read or holds no PEM, or the key does not belong to the
// certificate.
//
// A channel keeps the credentials it was made with. NewerCredentials says when to make another.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentials(const TlsOptions& options);
// They follow the files, and must outlive the servers that use them.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsOptions& options);

// What ChannelCredentials now returns, if that is something else than `used`, which it returned before; null otherwise.
std::shared_ptr<grpc::ChannelCredentials> NewerCredentials(const TlsOptions& options,
                                                           const std::shared_ptr<grpc::ChannelCredentials>& used);

// A set of files that this process uses.
struct TlsState {
  TlsOptions files;
  int64_t replaced = 0;  // how often new contents came into use
  // What the files hold now is not in use, but what they held before. INVALID_ARGUMENT: it cannot be read or used;
  // UNAVAILABLE: a file system has hung for 30 s.
  absl::Status status;
};
// Of all sets of files from which credentials were made.
std::vector<TlsState> TlsStates();
// For messages about connections that fail: "; ... the old ones are in use: ..." if that holds for these files, or "".
std::string TlsTrouble(const TlsOptions& options);

// Checks whether a client may connect to `address` ("host:port") with these options. Returns the errors of
// ChannelCredentials, and FAILED_PRECONDITION if a key would travel in plain text to another host and `insecure` is not
// set.
absl::Status CheckSecrecy(const TlsOptions& options, const std::string& address, bool sends_key);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_CREDENTIALS_H_
