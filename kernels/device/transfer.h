// Copies between ordinary host memory and a device's through a ring of pinned buffers: while some are in transit, the
// next is filled or emptied.
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
  // Return when all bytes have arrived, or after an error; nothing is then in transit.
  absl::Status ToDevice(const void* host, void* device, int64_t bytes);
  absl::Status ToHost(const void* device, void* host, int64_t bytes);

 private:
  static constexpr int64_t kPieceBytes = int64_t{1} << 20;
  static constexpr int64_t kPieces = 4;
  // Each piece has its own stream, so that it can be waited for without the later ones.
  struct Piece {
    Buffer pinned;
    std::unique_ptr<Stream> stream;  // destroyed before the memory
    void* to = nullptr;              // host destination of arrived bytes; nullptr: none
    int64_t bytes = 0;
  };

  explicit Transfer(Backend* backend) : backend_(backend) {}
  static absl::Status Finish(Piece& piece);
  // Calls start(piece, at, bytes) for consecutive parts of the whole, and waits for all.
  absl::Status ForEachPart(int64_t bytes, absl::FunctionRef<absl::Status(Piece&, int64_t, int64_t)> start);

  Backend* const backend_;
  std::array<Piece, kPieces> pieces_;
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_DEVICE_TRANSFER_H_
