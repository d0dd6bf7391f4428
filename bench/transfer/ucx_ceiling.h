// The throughput of UCX itself between two processes: active messages with rendezvous between two rings of memory, with
// nothing of ours around them. Each side is one thread that polls while there is something to do. The ceiling of
// transport/ucx, and, with the rest of a store's minimal work, of its pulls and pushes over it.
#ifndef KVLINK_BENCH_TRANSFER_UCX_CEILING_H_
#define KVLINK_BENCH_TRANSFER_UCX_CEILING_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench {

// Makes UCX do in this process, and in those that it starts, what transport/ucx makes it do over tcp (context.cc says
// why): no writing into a peer's memory, no sending from where a payload lies, pieces of 512 KiB. Contexts that are
// there stay as they are.
void UseUcxAsTheTransportDoes();

// Serves encodings from a ring until it is killed; says the port in its first line. Ends the program on errors.
// The files are made when they are first needed: what encodings from a disk are read from, and what is pushed goes to.
[[noreturn]] void ServeUcxCeiling(int64_t ring_bytes, const std::string& disk_file, const std::string& pushed_file);

enum class UcxMove {
  kPull,          // from the server's ring
  kPullVerified,  // the same, and a second thread of the reader's checks each unit
  kPullDisk,      // verified; the server reads the bytes with io_uring and O_DIRECT, on the thread that sends them
  kPush,          // into the server's ring; a second thread there checks each unit and writes it to a file
};
// The other end of such a process at 127.0.0.1:`port`, which movers share. UNAVAILABLE.
class UcxPeer;
absl::StatusOr<std::shared_ptr<UcxPeer>> DialUcxCeiling(const std::string& port, int64_t ring_bytes);
std::unique_ptr<Mover> NewUcxCeiling(std::shared_ptr<UcxPeer> peer, UcxMove move, const std::string& name);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_UCX_CEILING_H_
