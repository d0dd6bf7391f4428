// Converts between absl and gRPC statuses; the codes have the same numbers. Thread-safety: pure functions.
#ifndef KVLINK_TRANSPORT_GRPC_STATUS_H_
#define KVLINK_TRANSPORT_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace kvlink::transport {

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_STATUS_H_
