// A ring of pinned pieces: while one is copied to or from pageable memory, the others are on the bus.
#include "kernels/device/transfer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status.h"

namespace kvlink::kernels {

absl::StatusOr<std::unique_ptr<Transfer>> Transfer::Create(Backend* backend) {
  std::unique_ptr<Transfer> transfer(new Transfer(backend));
  for (Piece& piece : transfer->pieces_) {
    KVLINK_ASSIGN_OR_RETURN(piece.pinned, backend->AllocatePinned(kPieceBytes));
    piece.stream = backend->NewStream();
  }
  return transfer;
}

absl::Status Transfer::Finish(Piece& piece) {
  void* const to = std::exchange(piece.to, nullptr);
  KVLINK_RETURN_IF_ERROR(piece.stream->Synchronize());
  if (to != nullptr) std::memcpy(to, piece.pinned.data(), static_cast<size_t>(piece.bytes));
  return absl::OkStatus();
}

absl::Status Transfer::ForEachPart(int64_t bytes, absl::FunctionRef<absl::Status(Piece&, int64_t, int64_t)> start) {
  absl::Status status;
  for (int64_t at = 0; at < bytes && status.ok(); at += kPieceBytes) {
    Piece& piece = pieces_[static_cast<size_t>(at / kPieceBytes % kPieces)];
    status = Finish(piece);
    if (status.ok()) status = start(piece, at, std::min(kPieceBytes, bytes - at));
  }
  for (Piece& piece : pieces_) status.Update(Finish(piece));
  return status;
}

absl::Status Transfer::ToDevice(const void* host, void* device, int64_t bytes) {
  return ForEachPart(bytes, [&](Piece& piece, int64_t at, int64_t count) {
    std::memcpy(piece.pinned.data(), static_cast<const std::byte*>(host) + at, static_cast<size_t>(count));
    return backend_->CopyIn(*piece.stream, piece.pinned.data(), static_cast<std::byte*>(device) + at, count);
  });
}

absl::Status Transfer::ToHost(const void* device, void* host, int64_t bytes) {
  return ForEachPart(bytes, [&](Piece& piece, int64_t at, int64_t count) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(
        backend_->CopyOut(*piece.stream, static_cast<const std::byte*>(device) + at, piece.pinned.data(), count));
    piece.to = static_cast<std::byte*>(host) + at;
    piece.bytes = count;
    return absl::OkStatus();
  });
}

}  // namespace kvlink::kernels
