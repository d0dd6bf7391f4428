// Checks the checksums of what arrived from all nodes, on a thread of its own: the transports' have no time for it.
//
// Thread-safety: all methods. What is queued is bounded by the memory that it arrived in.
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
  Verifier() : worker_({.name = "verify"}) {}
  // Runs what is queued.
  ~Verifier() { worker_.Finish(); }
  // Work that comes too late, when the verifier ends, is not done.
  void Submit(std::function<void()> work);
  // Waits until what was submitted before has run, and is gone with all it held.
  void Flush();

 private:
  Worker worker_;
};

// XXH3-64 of ranges of a piece that has arrived, as DeviceRegion::checksums.
using PieceChecksums = absl::FunctionRef<absl::Status(absl::Span<const int64_t> offsets,
                                                      absl::Span<const int64_t> lengths, absl::Span<uint64_t> out)>;

// Checks every unit that lies in `piece`. DATA_LOSS naming layer, head, unit; or the status of `checksums`. REQUIRES:
// the piece is one of PiecesOf(manifest, ...).
absl::Status VerifyPiece(const Manifest& manifest, const Piece& piece, PieceChecksums checksums);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_VERIFIER_H_
