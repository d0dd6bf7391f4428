// What the node and its clients share of gRPC: statuses, and the metadata of calls (proto/store.proto).
// Thread-safety: pure functions.
#ifndef KVLINK_STORE_RPC_RPC_H_
#define KVLINK_STORE_RPC_RPC_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace kvlink::store {

inline constexpr char kTokenMetadata[] = "kvlink-token";                // hexadecimal digits of the session's token
inline constexpr char kRetryAfterMetadata[] = "kvlink-retry-after-ms";  // trailing: when to try again

// The codes are the same numbers.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_RPC_RPC_H_
