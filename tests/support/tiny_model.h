// A small random model for tests that need a complete model but not a good one: a Hugging Face directory with
// config.json, model.safetensors (f32), tokenizer.json (byte-level BPE: 3 control tokens, 256 bytes, a few merges) and
// tokenizer_config.json (ChatML). The same options give the same bytes.
// Thread-safety: pure functions over the file system.
#ifndef KVLINK_TESTS_SUPPORT_TINY_MODEL_H_
#define KVLINK_TESTS_SUPPORT_TINY_MODEL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace kvlink::testing {

struct TinyModelOptions {
  std::string architecture = "llama";  // "llama", "mistral", "qwen2", "qwen3"
  int64_t layers = 3;
  int64_t hidden = 64;
  int64_t intermediate = 96;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 16;
  int64_t vocab = 320;  // at least 290
  int64_t context = 2048;
  int64_t window = 0;  // mistral; 0: none
  bool tied = true;
  double rope_theta = 10000;
  // Text of the config's "rope_scaling" object; empty: none.
  std::string rope_scaling;
  uint64_t seed = 1;
};

// Control tokens of its tokenizer. kTinyEnd ends a turn and is the end-of-sequence token; there is no BOS.
inline constexpr int32_t kTinyEndOfText = 0;  // <|endoftext|>
inline constexpr int32_t kTinyStart = 1;      // <|im_start|>
inline constexpr int32_t kTinyEnd = 2;        // <|im_end|>

// Creates `directory` (including parents) and writes the model there.
absl::Status WriteTinyModel(const std::string& directory, const TinyModelOptions& options);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_TINY_MODEL_H_
