// The throughput of UCX itself between two processes: active messages with rendezvous between two rings of memory,
// without any of our code. Each side is one thread that polls while there is work. The ceiling of transport/ucx, and,
// with the rest of a store's minimal work, of the store's pulls and pushes over it.
#ifndef KVLINK_BENCH_TRANSFER_UCX_CEILING_H_
#define KVLINK_BENCH_TRANSFER_UCX_CEILING_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench {

// Makes UCX, in this process and those it starts, behave as transport/ucx does over tcp (context.cc says why): no
// writing into a peer's memory, no sending directly from a payload, segments of 512 KiB. Existing contexts do not
// change.
void UseUcxAsTheTransportDoes();

// Serves encodings from a ring until killed; prints its port in its first line. Ends the program on errors. Both files
// are created on first use: the source of encodings from a disk, and the destination of pushes.
[[noreturn]] void ServeUcxCeiling(int64_t ring_bytes, const std::string& disk_file, const std::string& pushed_file);

enum class UcxMove {
  kPull,          // from the server's ring
  kPullVerified,  // the same, checked unit by unit by a second thread of the reader
  kPullDisk,      // verified; the server reads the bytes with io_uring and O_DIRECT, on the sending thread
  kPush,          // into the server's ring, where a second thread checks each unit and writes it to a file
};
// The other end of such a process at 127.0.0.1:`port`, shared by movers. UNAVAILABLE.
class UcxPeer;
absl::StatusOr<std::shared_ptr<UcxPeer>> DialUcxCeiling(const std::string& port, int64_t ring_bytes);
std::unique_ptr<Mover> NewUcxCeiling(std::shared_ptr<UcxPeer> peer, UcxMove move, const std::string& name);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_UCX_CEILING_H_
