// The same bytes moved on this machine without another process: rows of bench_transfer for comparison.
#ifndef KVLINK_BENCH_TRANSFER_TRANSFER_MACHINE_H_
#define KVLINK_BENCH_TRANSFER_TRANSFER_MACHINE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench {

// "bare io_uring": reads from a file of `ring_bytes` that it creates at `path`. UNAVAILABLE as BareDisk::Create.
absl::StatusOr<std::unique_ptr<Mover>> NewDiskMover(const std::string& path, int64_t ring_bytes);

// "memcpy": one thread, from a ring to a ring.
std::unique_ptr<Mover> NewCopyMover(int64_t ring_bytes);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_TRANSFER_MACHINE_H_
