// Copies between ordinary host memory and a device's, through a ring of pinned buffers: while some are on their way,
// the next is filled, or emptied.
// Thread-safety: by one thread at a time. Lifetime: the backend outlives the object.
#ifndef KVLINK_KERNELS_DEVICE_TRANSFER_H_
#define KVLINK_KERNELS_DEVICE_TRANSFER_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

class Transfer {
 public:
  // RESOURCE_EXHAUSTED: no pinned memory.
  static absl::StatusOr<std::unique_ptr<Transfer>> Create(Backend* backend);
  // Return when all bytes are there, or after an error; nothing is on its way then.
  absl::Status ToDevice(const void* host, void* device, int64_t bytes);
  absl::Status ToHost(const void* device, void* host, int64_t bytes);

 private:
  static constexpr int64_t kPieceBytes = int64_t{1} << 20;
  static constexpr int64_t kPieces = 4;
  // Each piece has a stream of its own, so that one can be waited for without those after it.
  struct Piece {
    Buffer pinned;
    std::unique_ptr<Stream> stream;  // ends before the memory goes
    void* to = nullptr;              // on the host: where the bytes go when they have arrived; nullptr: nowhere
    int64_t bytes = 0;
  };

  explicit Transfer(Backend* backend) : backend_(backend) {}
  static absl::Status Finish(Piece& piece);
  // Calls start(piece, at, bytes) for one part of the whole after another, and waits for all.
  absl::Status ForEachPart(int64_t bytes, absl::FunctionRef<absl::Status(Piece&, int64_t, int64_t)> start);

  Backend* const backend_;
  std::array<Piece, kPieces> pieces_;
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_DEVICE_TRANSFER_H_
