// The throughput of gRPC itself between two processes: one stream of messages of 1 MiB that lie where they are sent
// from, and are copied once where they arrive, with nothing of ours around them. The ceiling of transport/grpc.
#ifndef KVLINK_BENCH_TRANSFER_GRPC_CEILING_H_
#define KVLINK_BENCH_TRANSFER_GRPC_CEILING_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench {

// Serves encodings from a ring until it is killed; says its address in its first line. Ends the program on errors.
[[noreturn]] void ServeGrpcCeiling(int64_t ring_bytes);
// Pulls from such a process; each unit is checked when its slab is there, by the thread that waits. UNAVAILABLE.
absl::StatusOr<std::unique_ptr<Mover>> NewGrpcCeiling(const std::string& name, const std::string& address,
                                                      int64_t ring_bytes);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_GRPC_CEILING_H_
