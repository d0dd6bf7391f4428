// GGUF bytes to metadata, configuration, tokenizer description and expanded tensors.
#include <cstdint>
#include <vector>

#include "worker/files/gguf.h"
#include "worker/files/tensor_format.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvlink::model;
  const auto file = GgufFile::Parse({reinterpret_cast<const std::byte*>(data), size});
  if (!file.ok()) return 0;
  if (const auto config = GgufModelConfig(*file); config.ok()) (void)config->Canonical();
  (void)GgufTokenizerOf(*file);
  for (const SourceTensor& tensor : file->tensors()) {
    const TensorFormat* format = FindTensorFormat(tensor.type);
    const int64_t blocks = static_cast<int64_t>(tensor.bytes.size()) / format->block_bytes;
    std::vector<float> values(blocks * format->block_elements);
    format->expand(tensor.bytes.data(), blocks, values.data());
  }
  return 0;
}
