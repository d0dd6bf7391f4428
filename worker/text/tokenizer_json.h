// Files of Hugging Face's tokenizers library (https://huggingface.co/docs/tokenizers): tokenizer.json, and the token
// that begins a sequence from tokenizer_config.json. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_TEXT_TOKENIZER_JSON_H_
#define KVLINK_WORKER_TEXT_TOKENIZER_JSON_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/tokenizer.h"

namespace kvlink::model {

// The largest published files have 34 MB.
inline constexpr int64_t kMaxTokenizerJsonBytes = int64_t{128} << 20;

// `tokenizer_config` may be empty. Its "bos_token" takes precedence over the post-processor of `tokenizer`, which
// otherwise supplies bos() (a template that begins with a special token). Errors as ParseTokenizerJson.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerFiles(absl::string_view tokenizer,
                                                               absl::string_view tokenizer_config);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TOKENIZER_JSON_H_
