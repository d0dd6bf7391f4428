// The tokenizer of a model on disk, from its GGUF or its Hugging Face directory.
// Thread-safety: pure functions over the file system. Errors: as worker/text/tokenizer.h, and NOT_FOUND for a missing
// file; messages name the file.
#ifndef KVLINK_WORKER_FILES_OPEN_TOKENIZER_H_
#define KVLINK_WORKER_FILES_OPEN_TOKENIZER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/files/gguf.h"
#include "worker/text/tokenizer.h"

namespace kvlink::model {

// UNIMPLEMENTED for an unsupported pre-tokenizer or model type.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeGgufTokenizer(GgufTokenizer description);

// Opens the tokenizer at a model path, as OpenWeights interprets it.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const std::string& path);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_OPEN_TOKENIZER_H_
