// What UCX itself moves between two processes: active messages with rendezvous from a ring into a ring, with nothing of
// ours around them. The ceiling of transport/ucx. Each side is one thread that polls while there is something to do.
#ifndef KVLINK_BENCH_TRANSFER_UCX_CEILING_H_
#define KVLINK_BENCH_TRANSFER_UCX_CEILING_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench {

// Serves encodings from a ring until it is killed; says the port in its first line. Ends the program on errors.
[[noreturn]] void ServeUcxCeiling(int64_t ring_bytes);
// Pulls from such a process at 127.0.0.1:`port`. UNAVAILABLE.
absl::StatusOr<std::unique_ptr<Mover>> NewUcxCeiling(const std::string& name, const std::string& port,
                                                     int64_t ring_bytes);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_UCX_CEILING_H_
