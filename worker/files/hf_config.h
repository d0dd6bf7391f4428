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

// `generation_config` is empty if there is none. INVALID_ARGUMENT naming the missing or malformed key; UNIMPLEMENTED
// for an unsupported architecture or variant, naming the key.
absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view config, absl::string_view generation_config);

// JSON as Python reads and writes it may hold Infinity, -Infinity and NaN. Quote makes them strings that no other text
// writes, so that a parser of JSON takes it; Unquote reverses that.
std::string QuoteNonFinite(absl::string_view json);
std::string UnquoteNonFinite(absl::string_view json);

// "chat_template" of a tokenizer_config.json: a string, or the list entry named "default". Empty if there is none.
absl::StatusOr<std::string> ParseHfChatTemplate(absl::string_view tokenizer_config);

// The shards listed in a model.safetensors.index.json, as (tensor, file), ordered by tensor name. INVALID_ARGUMENT for
// file names with a path.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseSafetensorsIndex(absl::string_view index);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_HF_CONFIG_H_
