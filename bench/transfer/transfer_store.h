// The store's rows of bench_transfer: a node in its own process, and its client here.
#ifndef KVLINK_BENCH_TRANSFER_TRANSFER_STORE_H_
#define KVLINK_BENCH_TRANSFER_TRANSFER_STORE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench {

// How a row moves encodings: pulled from the node's DRAM or its segments; leased in place, by a reader that verifies
// them for the first time or has done so before; pushed to a node with segments on disk or in memory.
enum class StoreMove { kPullDram, kPullSegments, kMappedFirst, kMapped, kPush, kPushMemory };

// The directory of the stores of the bench with that process id. The bench creates and removes it, because servers are
// killed.
std::string StoreScratch(pid_t bench, bool in_memory);
// Serves a node over a store there, with `ring_bytes` of encodings in its tier. Does not return.
[[noreturn]] void ServeStore(int64_t ring_bytes, bool in_memory);

// "store pull from DRAM, ucx".
std::string StoreMoveName(StoreMove move, const std::string& carrier);
// `carrier`: "ucx" or "grpc" (kMapped maps). Reads are verified, unit by unit. The first Move of another shape writes
// as many encodings of it as fit into `ring_bytes`.
absl::StatusOr<std::unique_ptr<Mover>> NewStoreMover(const std::string& address, StoreMove move,
                                                     const std::string& carrier, int64_t ring_bytes);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_TRANSFER_STORE_H_
