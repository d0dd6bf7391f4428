#include "tests/support/device_tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace kvlink::testing {
namespace {

using kernels::Backend;
using kernels::Buffer;
using kernels::Dtype;

constexpr std::byte kPoison{0xff};

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "test memory: %s\n", std::string(status.message()).c_str());
  std::abort();
}

Buffer AllocateOrDie(Backend* backend, int64_t bytes) {
  auto buffer = backend->Allocate(bytes);
  Check(buffer.status());
  return *std::move(buffer);
}

}  // namespace

DeviceTensor DeviceTensor::Poisoned(Backend* backend, Dtype dtype, std::vector<int64_t> sizes,
                                    std::vector<int64_t> strides) {
  DeviceTensor tensor;
  tensor.backend_ = backend;
  tensor.view_ = kernels::Tensor::Dense(nullptr, dtype, backend->device(), sizes);
  int64_t last = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (!strides.empty()) tensor.view_.strides[i] = strides[i];
    last += (sizes[i] - 1) * tensor.view_.strides[i];
  }
  tensor.view_.bytes = tensor.view_.elements() == 0 ? 0 : (last + 1) * kernels::DtypeBytes(dtype);
  tensor.buffer_ = AllocateOrDie(backend, tensor.view_.bytes);
  tensor.view_.data = tensor.buffer_.data();
  const std::vector<std::byte> poison(static_cast<size_t>(tensor.view_.bytes), kPoison);
  tensor.Write(poison.data(), tensor.view_.bytes);
  return tensor;
}

DeviceTensor DeviceTensor::Of(Backend* backend, Dtype dtype, std::vector<int64_t> sizes,
                              const std::vector<float>& values, std::vector<int64_t> strides) {
  DeviceTensor tensor = Poisoned(backend, dtype, std::move(sizes), std::move(strides));
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.view_.bytes), kPoison);
  size_t i = 0;
  tensor.ForEachElement([&](int64_t index) {
    if (dtype == Dtype::kF32) {
      std::memcpy(bytes.data() + 4 * index, &values[i], 4);
    } else {
      const uint16_t code = kernels::FloatToBf16(values[i]);
      std::memcpy(bytes.data() + 2 * index, &code, 2);
    }
    ++i;
  });
  tensor.Write(bytes.data(), tensor.view_.bytes);
  return tensor;
}

void DeviceTensor::Write(const void* from, int64_t bytes) {
  if (bytes == 0) return;
  auto stream = backend_->NewStream();
  Check(backend_->CopyIn(*stream, from, view_.data, bytes));
  Check(stream->Synchronize());
}

std::vector<std::byte> DeviceTensor::Bytes() const {
  std::vector<std::byte> bytes(static_cast<size_t>(view_.bytes));
  if (bytes.empty()) return bytes;
  auto stream = backend_->NewStream();
  Check(backend_->CopyOut(*stream, view_.data, bytes.data(), view_.bytes));
  Check(stream->Synchronize());
  return bytes;
}

template <typename F>
void DeviceTensor::ForEachElement(const F& visit) const {
  std::array<int64_t, 4> sizes = {1, 1, 1, 1};
  for (int i = 0; i < view_.rank; ++i) sizes[i] = view_.sizes[i];
  for (int64_t a = 0; a < sizes[0]; ++a) {
    for (int64_t b = 0; b < sizes[1]; ++b) {
      for (int64_t c = 0; c < sizes[2]; ++c) {
        for (int64_t d = 0; d < sizes[3]; ++d) {
          visit(a * view_.strides[0] + b * view_.strides[1] + c * view_.strides[2] + d * view_.strides[3]);
        }
      }
    }
  }
}

std::vector<float> DeviceTensor::Floats() const {
  const std::vector<std::byte> bytes = Bytes();
  std::vector<float> values;
  values.reserve(static_cast<size_t>(view_.elements()));
  ForEachElement([&](int64_t index) {
    if (view_.dtype == Dtype::kF32) {
      float value;
      std::memcpy(&value, bytes.data() + 4 * index, 4);
      values.push_back(value);
    } else {
      uint16_t code;
      std::memcpy(&code, bytes.data() + 2 * index, 2);
      values.push_back(kernels::Bf16ToFloat(code));
    }
  });
  return values;
}

bool DeviceTensor::GapsIntact() const {
  std::vector<std::byte> bytes = Bytes();
  const int64_t width = kernels::DtypeBytes(view_.dtype);
  ForEachElement([&](int64_t index) {
    for (int64_t i = 0; i < width; ++i) bytes[static_cast<size_t>(index * width + i)] = kPoison;
  });
  for (std::byte byte : bytes) {
    if (byte != kPoison) return false;
  }
  return true;
}

std::vector<float> Rounded(std::vector<float> values, Dtype dtype) {
  if (dtype != Dtype::kBf16) return values;
  for (float& value : values) value = kernels::Bf16ToFloat(kernels::FloatToBf16(value));
  return values;
}

void ExpectWithin(const std::vector<float>& actual, const std::vector<double>& expected,
                  const std::vector<double>& tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  size_t worst = 0, misses = 0;
  double worst_excess = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double value = static_cast<double>(actual[i]);
    if (value == expected[i]) continue;  // also infinities
    const double error = std::fabs(value - expected[i]);
    if (error <= tolerance[i]) continue;
    ++misses;
    const double excess = std::isnan(error) ? INFINITY : error / tolerance[i];
    if (excess >= worst_excess) {
      worst_excess = excess;
      worst = i;
    }
  }
  EXPECT_EQ(misses, 0u) << what << ": element " << worst << " of " << actual.size() << " is " << actual[worst]
                        << ", not " << expected[worst] << " within " << tolerance[worst];
}

void ExpectClose(const std::vector<float>& actual, const std::vector<double>& expected, double absolute,
                 double relative, const std::string& what) {
  std::vector<double> tolerance(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) tolerance[i] = absolute + relative * std::fabs(expected[i]);
  ExpectWithin(actual, expected, tolerance, what);
}

DeviceWorkspace::DeviceWorkspace(Backend* backend, int64_t bytes) : buffer_(AllocateOrDie(backend, bytes)) {}

}  // namespace kvlink::testing
