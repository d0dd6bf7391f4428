// The throughput of gRPC itself between two processes: one stream of 1 MiB messages sent from where they lie and copied
// once on arrival, without any of our code. The ceiling of transport/grpc.
#ifndef KVLINK_BENCH_TRANSFER_GRPC_CEILING_H_
#define KVLINK_BENCH_TRANSFER_GRPC_CEILING_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench {

// Serves encodings from a ring until it is killed; prints its address in its first line. Ends the program on errors.
[[noreturn]] void ServeGrpcCeiling(int64_t ring_bytes);
// Pulls from such a process; the waiting thread checks each unit when its slab has arrived. UNAVAILABLE.
absl::StatusOr<std::unique_ptr<Mover>> NewGrpcCeiling(const std::string& name, const std::string& address,
                                                      int64_t ring_bytes);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_GRPC_CEILING_H_
