// Verifies the checksums of data from all nodes on a thread of its own; the transports' threads have no time for it.
//
// Thread-safety: all methods. The queue is bounded by the receive memory its entries refer to.
#ifndef KVLINK_STORE_CLIENT_DATA_VERIFIER_H_
#define KVLINK_STORE_CLIENT_DATA_VERIFIER_H_

#include <cstdint>
#include <functional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/worker.h"
#include "proto/manifest.h"
#include "proto/part.h"

namespace kvlink::store::client {

class Verifier {
 public:
  // `nice`: added to the niceness of its thread.
  explicit Verifier(int nice = 0) : worker_({.name = "verify", .nice = nice}) {}
  // Runs everything queued.
  ~Verifier() { worker_.Finish(); }
  // Queues work. Work submitted after the verifier has ended is dropped.
  void Submit(std::function<void()> work);
  // Waits until all work submitted before has run and was destroyed.
  void Flush();

 private:
  Worker worker_;
};

// XXH3-64 of ranges of a received piece, as DeviceRegion::checksums.
using PieceChecksums = absl::FunctionRef<absl::Status(absl::Span<const int64_t> offsets,
                                                      absl::Span<const int64_t> lengths, absl::Span<uint64_t> out)>;

// Verifies every unit in `piece`. DATA_LOSS, naming layer, head and unit; or the status of `checksums`. REQUIRES: the
// piece is one of PiecesOf(manifest, ...).
absl::Status VerifyPiece(const Manifest& manifest, const Piece& piece, PieceChecksums checksums);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_VERIFIER_H_
