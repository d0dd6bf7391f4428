// Other systems that move values between processes, as rows of bench_transfer.
#ifndef KVLINK_BENCH_TRANSFER_TRANSFER_PEERS_H_
#define KVLINK_BENCH_TRANSFER_TRANSFER_PEERS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench {

// A separate redis-server, filled with a ring of slabs of `shape`; an encoding is a pipelined GET per layer over a TCP
// connection, read straight into a ring. NOT_FOUND: redis-server is not installed. UNAVAILABLE.
absl::StatusOr<std::unique_ptr<Mover>> NewRedisMover(const EncodingShape& shape, int64_t ring_bytes);

// Runs a script of bench/peers, which moves encodings between its own processes and prints one line; returns it.
// NOT_FOUND: something it needs is not installed. UNAVAILABLE: it failed.
absl::StatusOr<std::string> RunPeer(const std::string& command);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_TRANSFER_PEERS_H_
