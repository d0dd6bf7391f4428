#include "store/client/data/verifier.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/slab.h"
#include "base/status.h"

namespace kvlink::store::client {

void Verifier::Submit(std::function<void()> work) {
  // Bounded by the receive memory, so the queue's own limit can be bypassed. Pieces dropped here are verified by their
  // waiters.
  worker_
      .AddAdmitted({[work = std::move(work)](const absl::Status& turn) {
        if (turn.ok()) work();
      }})
      .IgnoreError();
}

void Verifier::Flush() {
  struct Mark {
    Mutex mutex;
    CondVar changed;
    bool reached ABSL_GUARDED_BY(mutex) = false;
  };
  const auto mark = std::make_shared<Mark>();
  Submit([mark] {
    MutexLock lock(&mark->mutex);
    mark->reached = true;
    mark->changed.SignalAll();
  });
  MutexLock lock(&mark->mutex);
  while (!mark->reached) mark->changed.Wait(&mark->mutex);
}

absl::Status VerifyPiece(const Manifest& manifest, const Piece& piece, PieceChecksums checksums) {
  const SlabShape shape = manifest.shape(piece.layer);
  const int64_t end = std::min(piece.offset + piece.length, shape.used_bytes());
  const int64_t units = shape.units_per_head();
  std::vector<int64_t> offsets, lengths;
  int64_t unit = piece.offset / shape.head_bytes() * units;  // within the layer
  const int64_t first = unit;
  for (; unit < shape.kv_heads * units && shape.unit_offset(unit / units, unit % units) < end; ++unit) {
    offsets.push_back(shape.unit_offset(unit / units, unit % units) - piece.offset);
    lengths.push_back(shape.unit_bytes(unit % units));
  }
  std::vector<uint64_t> found(offsets.size());
  KVLINK_RETURN_IF_ERROR(checksums(offsets, lengths, absl::MakeSpan(found)));
  for (unit = first; unit - first < static_cast<int64_t>(found.size()); ++unit) {
    const int64_t head = unit / units, within = unit % units;
    if (found[unit - first] == manifest.unit_checksums[manifest.unit_index(piece.layer, head, within)]) continue;
    return absl::DataLossError(
        absl::StrCat("layer ", piece.layer, ", head ", head, ", unit ", within, ": the checksum does not match"));
  }
  return absl::OkStatus();
}

}  // namespace kvlink::store::client
