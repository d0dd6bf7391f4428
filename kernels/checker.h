// What the checks of arguments share: tensors, workspaces, ropes. Private to kernels/validate*.cc. Thread-safety: const
// objects.
#ifndef KVLINK_KERNELS_CHECKER_H_
#define KVLINK_KERNELS_CHECKER_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

inline constexpr int64_t kMaxHeads = 4096;
inline constexpr int64_t kMaxHeadDim = 4096;
// Of positions and offsets: exact in f64, and sums of a few do not overflow.
inline constexpr int64_t kMaxPosition = int64_t{1} << 40;
inline constexpr int64_t kAnySize = -1;

inline bool Aligned(const void* data, int64_t alignment) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(alignment) == 0;
}

inline std::string ShapeText(absl::Span<const int64_t> sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", sizes[i] == kAnySize ? "any" : absl::StrCat(sizes[i]));
  }
  return text + "]";
}

inline bool Finite(float value) { return std::isfinite(value); }

// Checks the tensors of one operation.
class Checker {
 public:
  Checker(absl::string_view operation, Device device) : operation_(operation), device_(device) {}

  absl::Status Input(absl::string_view name, const Tensor& tensor, std::initializer_list<Dtype> dtypes,
                     std::initializer_list<int64_t> sizes) const {
    return Check(name, tensor, dtypes, sizes, /*output=*/false);
  }
  absl::Status Output(absl::string_view name, const Tensor& tensor, std::initializer_list<Dtype> dtypes,
                      std::initializer_list<int64_t> sizes) const {
    return Check(name, tensor, dtypes, sizes, /*output=*/true);
  }
  // An optional input.
  absl::Status Optional(absl::string_view name, const Tensor& tensor, std::initializer_list<Dtype> dtypes,
                        std::initializer_list<int64_t> sizes) const {
    return tensor.data == nullptr ? absl::OkStatus() : Input(name, tensor, dtypes, sizes);
  }

  absl::Status Fail(absl::string_view name, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(operation_, ": ", name, ": ", what));
  }

  absl::Status RopeFits(const Rope* rope, int64_t head_dim) const {
    if (rope == nullptr) return Fail("rope", "missing");
    if (rope->rotary_dim < 2 || rope->rotary_dim % 2 != 0 || rope->rotary_dim > head_dim ||
        static_cast<int64_t>(rope->inv_freq.size()) != rope->rotary_dim / 2) {
      return Fail("rope", absl::StrCat("rotary_dim ", rope->rotary_dim, " with ", rope->inv_freq.size(),
                                       " frequencies does not fit head dimension ", head_dim));
    }
    return absl::OkStatus();
  }

  absl::Status WorkspaceFits(const Workspace& workspace, int64_t bytes) const {
    if (bytes == 0) return absl::OkStatus();
    if (workspace.data == nullptr || workspace.bytes < bytes) {
      return Fail("workspace",
                  absl::StrCat(workspace.data == nullptr ? 0 : workspace.bytes, " bytes, ", bytes, " needed"));
    }
    return Aligned(workspace.data, 64) ? absl::OkStatus() : Fail("workspace", "not 64-byte aligned");
  }

  absl::Status AttentionFits(const AttentionParams& params) const {
    if (params.kv_heads < 1 || params.heads < params.kv_heads || params.heads > kMaxHeads ||
        params.heads % params.kv_heads != 0) {
      return Fail("params", absl::StrCat(params.heads, " heads over ", params.kv_heads, " kv heads"));
    }
    if (params.head_dim < 2 || params.head_dim > kMaxHeadDim || params.head_dim % 2 != 0) {
      return Fail("params",
                  absl::StrCat("head dimension ", params.head_dim, "; it must be even, from 2 to ", kMaxHeadDim));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Check(absl::string_view name, const Tensor& tensor, std::initializer_list<Dtype> dtypes,
                     std::initializer_list<int64_t> sizes, bool output) const {
    if (std::find(dtypes.begin(), dtypes.end(), tensor.dtype) == dtypes.end()) {
      std::string allowed;
      for (Dtype dtype : dtypes) absl::StrAppend(&allowed, allowed.empty() ? "" : " or ", DtypeName(dtype));
      return Fail(name, absl::StrCat("dtype ", DtypeName(tensor.dtype), ", must be ", allowed));
    }
    if (!SizesMatch(tensor, sizes)) {
      const int rank = std::clamp(tensor.rank, 0, 4);
      return Fail(name, absl::StrCat("shape ", ShapeText({tensor.sizes.data(), static_cast<size_t>(rank)}),
                                     ", must be ", ShapeText({sizes.begin(), sizes.size()})));
    }
    if (!(tensor.device == device_)) return Fail(name, "lies on another device than the backend");
    for (int i = 0; i < tensor.rank; ++i) {
      if (tensor.sizes[i] == 0) return absl::OkStatus();
    }
    if (tensor.data == nullptr) return Fail(name, "no data");
    if (!Aligned(tensor.data, DtypeBytes(tensor.dtype))) return Fail(name, "data not aligned to its element");
    return CheckStrides(name, tensor, output);
  }

  static bool SizesMatch(const Tensor& tensor, std::initializer_list<int64_t> sizes) {
    if (tensor.rank != static_cast<int>(sizes.size())) return false;
    int i = 0;
    for (int64_t size : sizes) {
      if (tensor.sizes[i] < 0 || (size != kAnySize && tensor.sizes[i] != size)) return false;
      ++i;
    }
    return true;
  }

  absl::Status CheckStrides(absl::string_view name, const Tensor& tensor, bool output) const {
    if (tensor.sizes[tensor.rank - 1] > 1 && tensor.strides[tensor.rank - 1] != 1)
      return Fail(name, "last stride is not 1");
    int64_t last = 0;  // index of the last element
    for (int i = 0; i < tensor.rank; ++i) {
      int64_t extent = 0;
      if (tensor.strides[i] < 0) return Fail(name, absl::StrCat("stride ", tensor.strides[i], " is negative"));
      if (__builtin_mul_overflow(tensor.sizes[i] - 1, tensor.strides[i], &extent) ||
          __builtin_add_overflow(last, extent, &last)) {
        return Fail(name, "strides overflow");
      }
    }
    int64_t needed = 0;
    if (__builtin_add_overflow(last, 1, &needed) || __builtin_mul_overflow(needed, DtypeBytes(tensor.dtype), &needed) ||
        needed > tensor.bytes) {
      return Fail(name, absl::StrCat("reaches beyond its ", tensor.bytes, " bytes"));
    }
    if (output && Overlaps(tensor)) return Fail(name, "elements of an output overlap");
    return absl::OkStatus();
  }

  // Whether, sorted by stride, some dimension's stride is smaller than the extent of the dimensions inside it.
  static bool Overlaps(const Tensor& tensor) {
    std::array<std::pair<int64_t, int64_t>, 4> dimensions;  // stride, size
    int count = 0;
    for (int i = 0; i < tensor.rank; ++i) {
      if (tensor.sizes[i] <= 1) continue;
      int at = count++;
      for (; at > 0 && dimensions[at - 1].first > tensor.strides[i]; --at) dimensions[at] = dimensions[at - 1];
      dimensions[at] = {tensor.strides[i], tensor.sizes[i]};
    }
    int64_t covered = 1;
    for (int i = 0; i < count; ++i) {
      if (dimensions[i].first < covered) return true;
      covered = dimensions[i].first * (dimensions[i].second - 1) + covered;
    }
    return false;
  }

  const absl::string_view operation_;
  const Device device_;
};

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_CHECKER_H_
