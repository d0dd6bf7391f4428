// Bytes of small safetensors files. Thread-safety: pure functions.
#ifndef KVLINK_TESTS_SUPPORT_SAFETENSORS_BYTES_H_
#define KVLINK_TESTS_SUPPORT_SAFETENSORS_BYTES_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvlink::testing {

struct TestTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string bytes;
  std::string type = "F32";
};

inline TestTensor F32Tensor(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return {name, std::move(shape), std::move(bytes)};
}

inline std::string SafetensorsBytes(const std::vector<TestTensor>& tensors) {
  std::string header, data;
  for (const TestTensor& tensor : tensors) {
    absl::StrAppend(&header, header.empty() ? "{" : ",", "\"", tensor.name, "\":{\"dtype\":\"", tensor.type,
                    "\",\"shape\":[", absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", data.size(), ",",
                    data.size() + tensor.bytes.size(), "]}");
    data += tensor.bytes;
  }
  header += header.empty() ? "{}" : "}";
  const uint64_t size = header.size();
  return absl::StrCat(std::string(reinterpret_cast<const char*>(&size), sizeof(size)), header, data);
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_SAFETENSORS_BYTES_H_
