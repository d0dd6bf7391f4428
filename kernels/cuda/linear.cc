// Linear on a device: weights padded to whole 16 bytes, products by Matmul (cuBLASLt), epilogues by a kernel of ours.
#include "kernels/cuda/linear.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/status.h"
#include "kernels/bf16.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/runtime.h"

namespace kvlink::kernels::cuda {
namespace {

int64_t RoundUp(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// bf16 elements in 16 bytes: rows are padded to a multiple.
constexpr int64_t kAligned = 8;
// Alignment of the library's own part of a workspace, stricter than the contract of workspaces.
constexpr int64_t kMatmulAlignment = 256;

class CudaMatrix : public PackedMatrix {
 public:
  CudaMatrix(int64_t n, int64_t k, Device device, void* data) : n_(n), k_(k), device_(device), data_(data) {}
  ~CudaMatrix() override { FreeDevice(data_); }
  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  int64_t bytes() const override { return n_ * padded() * 2; }
  // Elements of a padded row; zeros from k on.
  int64_t padded() const { return RoundUp(k_, kAligned); }
  const uint16_t* data() const { return static_cast<const uint16_t*>(data_); }
  Device device() const { return device_; }

 private:
  const int64_t n_, k_;
  const Device device_;
  void* const data_;
};

bool Aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

View ViewOf(const Tensor& tensor) {
  return {tensor.data, tensor.dtype == Dtype::kBf16, {tensor.strides[0], tensor.strides[1], tensor.strides[2]}};
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedMatrix>> Linear::Pack(const Tensor& weight, Device device, void* upload) const {
  const int64_t n = weight.sizes[0], k = weight.sizes[1], padded = RoundUp(k, kAligned);
  KVLINK_ASSIGN_OR_RETURN(void* data, AllocateDevice(n * padded * 2));
  auto matrix = std::make_unique<CudaMatrix>(n, k, device, data);
  if (weight.dtype == Dtype::kBf16 && padded == k) {
    KVLINK_RETURN_IF_ERROR(Copy(upload, data, weight.data, n * k * 2));
    KVLINK_RETURN_IF_ERROR(SynchronizeStream(upload));
    return matrix;
  }
  // In pieces, so that a large matrix needs little host memory.
  const int64_t piece = std::max<int64_t>(1, (int64_t{16} << 20) / (padded * 2));
  std::vector<uint16_t> rows;
  for (int64_t first = 0; first < n; first += piece) {
    const int64_t count = std::min(piece, n - first);
    rows.assign(static_cast<size_t>(count * padded), 0);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const int64_t from = (first + i) * k + j;
        rows[static_cast<size_t>(i * padded + j)] = weight.dtype == Dtype::kBf16
                                                        ? weight.as<const uint16_t>()[from]
                                                        : FloatToBf16(weight.as<const float>()[from]);
      }
    }
    KVLINK_RETURN_IF_ERROR(
        Copy(upload, static_cast<uint16_t*>(data) + first * padded, rows.data(), count * padded * 2));
    KVLINK_RETURN_IF_ERROR(SynchronizeStream(upload));
  }
  return matrix;
}

bool Linear::Packed(const PackedMatrix& weight, Device device) {
  const auto* matrix = dynamic_cast<const CudaMatrix*>(&weight);
  return matrix != nullptr && matrix->device() == device;
}

int64_t Linear::WorkspaceBytes(int64_t rows, const PackedMatrix& weight) const {
  if (rows <= 0) return 0;
  const int64_t padded = RoundUp(weight.k(), kAligned), columns = RoundUp(weight.n(), kAligned);
  return RoundUp(matmul_->WorkspaceBytes(), 64) + kMatmulAlignment + RoundUp(rows * padded * 2, 64) +
         RoundUp(rows * columns * 4, 64);
}

absl::Status Linear::Run(void* stream, const LinearArgs& args) const {
  const auto& matrix = static_cast<const CudaMatrix&>(*args.weight);
  const int64_t rows = args.x.sizes[0], n = matrix.n(), padded = matrix.padded();
  std::byte* free =
      reinterpret_cast<std::byte*>(RoundUp(reinterpret_cast<intptr_t>(args.workspace.data), kMatmulAlignment));
  MatmulArgs product;
  product.workspace = {free, matmul_->WorkspaceBytes()};
  free += RoundUp(product.workspace.bytes, 64);
  product.weight = matrix.data();
  product.rows = rows, product.n = n, product.k = padded;

  const bool in_place =
      args.x.dtype == Dtype::kBf16 && matrix.k() == padded && args.x.strides[0] % kAligned == 0 && Aligned(args.x.data);
  product.x = args.x.as<const uint16_t>();
  product.x_stride = rows == 1 ? padded : args.x.strides[0];  // the stride of a single row is arbitrary
  if (!in_place) {
    RoundRowsLaunch round;
    round.from = ViewOf(args.x);
    round.to = reinterpret_cast<uint16_t*>(free);
    round.rows = rows, round.columns = matrix.k(), round.padded = padded;
    KVLINK_RETURN_IF_ERROR(LaunchStatus("Linear", LaunchRoundRows(stream, round)));
    product.x = round.to;
    product.x_stride = padded;
  }
  free += RoundUp(rows * padded * 2, 64);

  const float* bias = args.bias.data == nullptr ? nullptr : args.bias.as<const float>();
  const bool silu = args.epilogue == Epilogue::kSiluMul, bf16 = args.out.dtype == Dtype::kBf16;
  const bool fused_bias = bias == nullptr || (!bf16 && Aligned(bias) && n % kAligned == 0);
  if (!silu && fused_bias && args.out.strides[0] * DtypeBytes(args.out.dtype) % 16 == 0 && Aligned(args.out.data)) {
    product.bias = bias;
    product.out = ViewOf(args.out);
    if (rows == 1) product.out.strides[0] = RoundUp(n, kAligned);
    return matmul_->Run(stream, product);
  }
  // A bf16 silu-mul starts from a bf16 product: half the traffic, and no more rounding than any activation.
  product.out.data = free;
  product.out.bf16 = silu && bf16 && bias == nullptr;
  product.out.strides[0] = RoundUp(n, kAligned);
  KVLINK_RETURN_IF_ERROR(matmul_->Run(stream, product));
  FinishLinearLaunch finish;
  finish.product = product.out;
  finish.out = ViewOf(args.out);
  finish.bias = bias;
  finish.rows = rows;
  finish.columns = silu ? n / 2 : n;
  finish.silu_mul = silu;
  return LaunchStatus("Linear", LaunchFinishLinear(stream, finish));
}

}  // namespace kvlink::kernels::cuda
