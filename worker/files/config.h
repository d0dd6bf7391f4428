// The configuration of a decoder-only transformer: shapes, rope, normalisation, attention per layer. Read from GGUF
// metadata or a Hugging Face config.json. Models for which linked attention cannot be exact are refused. Thread-safety:
// a plain value.
#ifndef KVLINK_WORKER_FILES_CONFIG_H_
#define KVLINK_WORKER_FILES_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/rope.h"

namespace kvlink::model {

struct ModelConfig {
  std::string architecture;  // "llama", "mistral", "qwen2", "qwen3"
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab = 0;
  int64_t context = 0;  // positions the model was trained for
  double rms_eps = 0;
  bool tied_embeddings = false;
  bool qkv_bias = false;     // qwen2, and llama with attention_bias
  bool output_bias = false;  // the attention's output matrix: llama with attention_bias
  bool mlp_bias = false;     // llama
  bool qk_norm = false;      // qwen3
  kernels::RopeConfig rope;
  std::vector<int64_t> window;           // [layers] sliding window, 0: none
  int32_t bos = -1;                      // -1: none
  std::vector<int32_t> end_of_sequence;  // a set
  // Deterministic text of all fields above that affect an encoding: the configuration part of the model fingerprint.
  std::string Canonical() const;
  // INVALID_ARGUMENT naming the field, for inconsistent or absurd shapes (limits: 1024 layers, 2^20 wide, 2^24 vocab).
  absl::Status Validate() const;
};

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_CONFIG_H_
