// Safetensors bytes to a list of tensors.
#include <cstdint>
#include <cstdlib>

#include "worker/files/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvlink::model;
  const auto tensors = ParseSafetensors({reinterpret_cast<const std::byte*>(data), size});
  if (!tensors.ok()) return 0;
  const auto* const begin = reinterpret_cast<const std::byte*>(data);
  for (const SourceTensor& tensor : *tensors) {
    if (tensor.bytes.data() < begin || tensor.bytes.data() + tensor.bytes.size() > begin + size) std::abort();
  }
  return 0;
}
