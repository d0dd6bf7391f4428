// Text of config.json, and behind a zero byte of generation_config.json; also taken for tokenizer_config.json and an
// index.
#include <cstdint>
#include <cstdlib>

#include "worker/files/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvlink::model;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t zero = text.find('\0');
  const absl::string_view generation = zero == absl::string_view::npos ? "" : text.substr(zero + 1);
  const auto config = ParseHfConfig(text.substr(0, zero), generation);
  if (config.ok() && !config->Validate().ok()) std::abort();
  if (config.ok()) (void)config->Canonical();
  (void)ParseHfChatTemplate(text);
  (void)ParseSafetensorsIndex(text);
  return 0;
}
