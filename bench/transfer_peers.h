// Other systems that move values between processes, as rows of bench_transfer.
#ifndef KVLINK_BENCH_TRANSFER_PEERS_H_
#define KVLINK_BENCH_TRANSFER_PEERS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "bench/transfer.h"

namespace kvlink::bench {

// A redis-server of its own, filled with a ring of slabs of `shape`; an encoding is a pipelined GET for each layer over
// a TCP connection, read straight into a ring. NOT_FOUND: redis-server is not installed. UNAVAILABLE.
absl::StatusOr<std::unique_ptr<Mover>> NewRedisMover(const EncodingShape& shape, int64_t ring_bytes);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_PEERS_H_
