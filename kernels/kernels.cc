// The small functions of the contract: sizes and names of types, views, and ownership of buffers.
#include "kernels/kernels.h"

#include <utility>

namespace kvlink::kernels {

int64_t DtypeBytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return 4;
    case Dtype::kBf16:
      return 2;
    case Dtype::kI32:
      return 4;
    case Dtype::kI64:
      return 8;
    case Dtype::kU64:
      return 8;
    case Dtype::kU8:
      return 1;
  }
  return 0;
}

absl::string_view DtypeName(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return "f32";
    case Dtype::kBf16:
      return "bf16";
    case Dtype::kI32:
      return "i32";
    case Dtype::kI64:
      return "i64";
    case Dtype::kU64:
      return "u64";
    case Dtype::kU8:
      return "u8";
  }
  return "unknown";
}

Tensor Tensor::Dense(void* data, Dtype dtype, Device device, absl::Span<const int64_t> sizes) {
  Tensor tensor;
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.device = device;
  tensor.rank = static_cast<int>(sizes.size() < 4 ? sizes.size() : 4);
  int64_t stride = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    tensor.sizes[i] = sizes[i];
    tensor.strides[i] = stride;
    stride *= sizes[i];
  }
  tensor.bytes = stride * DtypeBytes(dtype);
  return tensor;
}

int64_t Tensor::elements() const {
  int64_t count = 1;
  for (int i = 0; i < rank; ++i) count *= sizes[i];
  return count;
}

Tensor Tensor::Slice(int64_t begin, int64_t count) const {
  Tensor slice = *this;
  const int64_t skipped = begin * strides[0] * DtypeBytes(dtype);
  if (data != nullptr) slice.data = static_cast<std::byte*>(data) + skipped;
  slice.bytes = bytes - skipped;
  slice.sizes[0] = count;
  return slice;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    device_ = other.device_;
    deleter_ = std::exchange(other.deleter_, nullptr);
  }
  return *this;
}

void Buffer::reset() {
  if (data_ != nullptr && deleter_ != nullptr) deleter_(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
  deleter_ = nullptr;
}

}  // namespace kvlink::kernels
