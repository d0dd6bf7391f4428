// Copies, reads and products of the largest size, timed on the device's own streams.
#include "bench/device/device_ceilings.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "base/slab.h"
#include "base/status.h"
#include "bench/device/launch_time.h"
#include "kernels/bf16.h"

namespace kvlink::bench {

using kernels::Dtype;
using kernels::Tensor;

absl::StatusOr<std::unique_ptr<DeviceCeilings>> DeviceCeilings::Create(kernels::Backend* backend, const Sizes& sizes,
                                                                       int rounds) {
  std::unique_ptr<DeviceCeilings> made(new DeviceCeilings(backend, sizes, rounds));
  const int64_t matrix = sizes.side * sizes.side * 2;
  const int64_t bytes = std::max({sizes.copy_bytes, sizes.link_bytes, matrix});
  KVLINK_ASSIGN_OR_RETURN(made->from_, backend->Allocate(bytes));
  KVLINK_ASSIGN_OR_RETURN(made->to_, backend->Allocate(bytes));
  KVLINK_ASSIGN_OR_RETURN(made->pinned_, backend->AllocatePinned(std::max(sizes.link_bytes, matrix)));
  made->stream_ = backend->NewStream();
  // Random numbers: with zeros a device would draw less power, and run faster.
  auto* host = static_cast<uint16_t*>(made->pinned_.data());
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> row(static_cast<size_t>(std::min<int64_t>(sizes.side * sizes.side, 65537)));
  for (uint16_t& value : row) value = kernels::FloatToBf16(normal(random));
  const int64_t numbers = made->pinned_.bytes() / 2, length = static_cast<int64_t>(row.size());
  for (int64_t at = 0; at < numbers; at += length) {
    std::memcpy(host + at, row.data(), static_cast<size_t>(std::min(length, numbers - at)) * 2);
  }
  KVLINK_ASSIGN_OR_RETURN(made->matrix_,
                          backend->PackWeights(Tensor::Dense(host, Dtype::kBf16, {}, {sizes.side, sizes.side})));
  KVLINK_ASSIGN_OR_RETURN(
      made->workspace_, backend->Allocate(std::max<int64_t>(
                            64, backend->LinearWorkspaceBytes(sizes.side, *made->matrix_, kernels::Epilogue::kNone))));
  KVLINK_RETURN_IF_ERROR(backend->CopyIn(*made->stream_, host, made->from_.data(), matrix));
  KVLINK_RETURN_IF_ERROR(made->stream_->Synchronize());
  KVLINK_RETURN_IF_ERROR(made->Measure());
  return made;
}

absl::Status DeviceCeilings::Measure() {
  // The product first: the other measurements overwrite its numbers with the same ones.
  KVLINK_ASSIGN_OR_RETURN(const double operations, Operations());
  KVLINK_ASSIGN_OR_RETURN(const double linked, Linked());
  KVLINK_ASSIGN_OR_RETURN(const double copied, Copied());
  rates_.operations = std::max(rates_.operations, operations);
  rates_.linked = std::max(rates_.linked, linked);
  rates_.copied = std::max(rates_.copied, copied);
  return absl::OkStatus();
}

// Decodes a raw slab unchanged: a copy within the device.
absl::StatusOr<double> DeviceCeilings::Copied() {
  SlabShape shape{Codec::kRawBf16, 1, 128, 0};
  shape.tokens = sizes_.copy_bytes / (2 * shape.row_bytes());
  const int64_t bytes = shape.slab_bytes();
  const auto slab = [&](const kernels::Buffer& buffer) {
    return Tensor::Dense(buffer.data(), Dtype::kU8, backend_->device(), {bytes});
  };
  const kernels::DecodeArgs args{shape, slab(from_), shape.codec, nullptr, slab(to_)};
  KVLINK_ASSIGN_OR_RETURN(const double seconds,
                          LaunchSeconds(*stream_, rounds_, [&] { return backend_->Decode(*stream_, args); }));
  return 2.0 * static_cast<double>(bytes) / seconds;
}

absl::StatusOr<double> DeviceCeilings::Linked() {
  KVLINK_ASSIGN_OR_RETURN(const double seconds, LaunchSeconds(*stream_, rounds_, [&] {
                            return backend_->CopyIn(*stream_, pinned_.data(), from_.data(), sizes_.link_bytes);
                          }));
  return static_cast<double>(sizes_.link_bytes) / seconds;
}

absl::StatusOr<double> DeviceCeilings::Operations() {
  const auto square = [&](const kernels::Buffer& buffer) {
    return Tensor::Dense(buffer.data(), Dtype::kBf16, backend_->device(), {sizes_.side, sizes_.side});
  };
  kernels::LinearArgs args;
  args.x = square(from_);
  args.weight = matrix_.get();
  args.out = square(to_);
  args.workspace = {workspace_.data(), workspace_.bytes()};
  KVLINK_ASSIGN_OR_RETURN(const double seconds,
                          LaunchSeconds(*stream_, rounds_, [&] { return backend_->Linear(*stream_, args); }));
  return 2.0 * static_cast<double>(sizes_.side * sizes_.side * sizes_.side) / seconds;
}

}  // namespace kvlink::bench
