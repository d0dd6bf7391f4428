// Tensors in a backend's memory for tests: uploaded, poisoned, downloaded, with the gaps between rows checked.
#ifndef KVLINK_TESTS_SUPPORT_DEVICE_TENSOR_H_
#define KVLINK_TESTS_SUPPORT_DEVICE_TENSOR_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/kernels.h"

namespace kvlink::testing {

// Owns memory of a backend, which must outlive it. Aborts the process if the backend fails, because no test can
// continue then.
class DeviceTensor {
 public:
  // Every byte is 0xff (NaN as f32 and bf16, -1 as an integer). Empty `strides` mean dense.
  static DeviceTensor Poisoned(kernels::Backend* backend, kernels::Dtype dtype, std::vector<int64_t> sizes,
                               std::vector<int64_t> strides = {});
  // Row-major `values`, rounded to `dtype` (f32 or bf16), with poisoned gaps.
  static DeviceTensor Of(kernels::Backend* backend, kernels::Dtype dtype, std::vector<int64_t> sizes,
                         const std::vector<float>& values, std::vector<int64_t> strides = {});
  // Dense integers or bytes.
  template <typename T>
  static DeviceTensor OfInts(kernels::Backend* backend, kernels::Dtype dtype, const std::vector<T>& values) {
    DeviceTensor tensor = Poisoned(backend, dtype, {static_cast<int64_t>(values.size())});
    tensor.Write(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    return tensor;
  }

  const kernels::Tensor& view() const { return view_; }
  operator const kernels::Tensor&() const { return view_; }  // NOLINT: an argument like any other
  const std::byte* data() const { return static_cast<const std::byte*>(view_.data); }

  // Row-major elements of an f32 or bf16 tensor.
  std::vector<float> Floats() const;
  // All bytes, gaps included.
  std::vector<std::byte> Bytes() const;
  template <typename T>
  std::vector<T> Ints() const {
    const std::vector<std::byte> bytes = Bytes();
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }
  // Whether everything between the elements is still poisoned.
  bool GapsIntact() const;

 private:
  void Write(const void* from, int64_t bytes);
  template <typename F>
  void ForEachElement(const F& visit) const;

  kernels::Backend* backend_ = nullptr;
  kernels::Buffer buffer_;
  kernels::Tensor view_;
};

// The values rounded to `dtype`.
std::vector<float> Rounded(std::vector<float> values, kernels::Dtype dtype);

// Expects |actual - expected| <= absolute[i] or absolute + relative * |expected|; reports the worst element. NaN is
// never close.
void ExpectClose(const std::vector<float>& actual, const std::vector<double>& expected, double absolute,
                 double relative, const std::string& what);
void ExpectWithin(const std::vector<float>& actual, const std::vector<double>& expected,
                  const std::vector<double>& tolerance, const std::string& what);

// Memory for an operation's workspace; empty if none is needed.
class DeviceWorkspace {
 public:
  DeviceWorkspace(kernels::Backend* backend, int64_t bytes);
  operator kernels::Workspace() const { return {buffer_.data(), buffer_.bytes()}; }  // NOLINT

 private:
  kernels::Buffer buffer_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_DEVICE_TENSOR_H_
