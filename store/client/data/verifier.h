// Checks the checksums of what landed, on a thread of its own: the transport's has no time for it.
//
// Thread-safety: all methods. What is queued is bounded by the memory that it landed in.
#ifndef KVLINK_STORE_CLIENT_DATA_VERIFIER_H_
#define KVLINK_STORE_CLIENT_DATA_VERIFIER_H_

#include <cstdint>
#include <deque>
#include <functional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "proto/manifest.h"
#include "proto/part.h"

namespace kvlink::store {

class Verifier {
 public:
  Verifier() : thread_("verify", [this] { Run(); }) {}
  // What is queued still runs.
  ~Verifier();
  void Submit(std::function<void()> work);

 private:
  void Run();
  Mutex mutex_;
  CondVar wake_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

// XXH3-64 of ranges of a piece that has landed, as DeviceRegion::checksums.
using PieceChecksums = absl::FunctionRef<absl::Status(absl::Span<const int64_t> offsets,
                                                      absl::Span<const int64_t> lengths, absl::Span<uint64_t> out)>;

// Checks every unit that lies in `piece`. DATA_LOSS naming layer, head, unit; or the status of `checksums`. REQUIRES:
// the piece is one of PiecesOf(manifest, ...).
absl::Status VerifyPiece(const Manifest& manifest, const Piece& piece, PieceChecksums checksums);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_CLIENT_DATA_VERIFIER_H_
