#include "store/client/verifier.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/slab.h"

namespace kvlink::store {

Verifier::~Verifier() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    wake_.SignalAll();
  }
  thread_.join();
}

void Verifier::Submit(std::function<void()> work) {
  MutexLock lock(&mutex_);
  queue_.push_back(std::move(work));
  wake_.Signal();
}

void Verifier::Run() {
  while (true) {
    std::function<void()> work;
    {
      MutexLock lock(&mutex_);
      while (queue_.empty() && !stop_) wake_.Wait(&mutex_);
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

absl::Status VerifyPiece(const Manifest& manifest, const Piece& piece, absl::Span<const std::byte> bytes) {
  if (piece.offset == 0 && piece.length == manifest.layers[piece.layer].length) {
    return manifest.VerifyLayer(piece.layer, bytes);
  }
  const SlabShape shape = manifest.shape(piece.layer);
  const int64_t end = piece.offset + piece.length;
  for (int64_t head = piece.offset / shape.head_bytes(); head < shape.kv_heads; ++head) {
    for (int64_t unit = 0; unit < shape.units_per_head(); ++unit) {
      const int64_t offset = shape.unit_offset(head, unit), length = shape.unit_bytes(unit);
      if (offset >= end) return absl::OkStatus();
      if (Checksum64(bytes.subspan(offset - piece.offset, length)) !=
          manifest.unit_checksums[manifest.unit_index(piece.layer, head, unit)]) {
        return absl::DataLossError(
            absl::StrCat("layer ", piece.layer, ", head ", head, ", unit ", unit, ": the checksum does not match"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace kvlink::store
