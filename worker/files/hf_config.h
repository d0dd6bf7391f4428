// Hugging Face configuration files: config.json in both spellings of the rope keys, generation_config.json,
// tokenizer_config.json. Thread-safety: pure functions. Bounds: each text at most kMaxConfigBytes, read with
// ReadSmallFile.
#ifndef KVLINK_WORKER_FILES_HF_CONFIG_H_
#define KVLINK_WORKER_FILES_HF_CONFIG_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/files/config.h"

namespace kvlink::model {

inline constexpr int64_t kMaxConfigBytes = 1 << 20;

// `generation_config`: empty if there is none. INVALID_ARGUMENT naming the key that is missing or malformed;
// UNIMPLEMENTED for an architecture or variant that we do not run, naming the key.
absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view config, absl::string_view generation_config);

// "chat_template" of a tokenizer_config.json: a string, or the one named "default" of a list. Empty if there is none.
absl::StatusOr<std::string> ParseHfChatTemplate(absl::string_view tokenizer_config);

// The shards of a model.safetensors.index.json: (tensor, file) by name of the tensor. INVALID_ARGUMENT for file names
// that are no plain names.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseSafetensorsIndex(absl::string_view index);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_HF_CONFIG_H_
