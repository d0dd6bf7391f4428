// Locates the parts of a model: interprets the path given to OpenWeights and OpenTokenizer.
// Thread-safety: pure functions over the file system.
#ifndef KVLINK_WORKER_FILES_MODEL_PATH_H_
#define KVLINK_WORKER_FILES_MODEL_PATH_H_

#include <string>

#include "absl/status/statusor.h"

namespace kvlink::model {

struct ModelPath {
  std::string gguf;       // the .gguf file; empty: a Hugging Face directory
  std::string directory;  // the directory with config.json; empty: a GGUF
};

// A file is treated as a GGUF. A directory with config.json is a Hugging Face model; any other directory must contain
// exactly one .gguf. NOT_FOUND if the path does not exist; INVALID_ARGUMENT for an empty path, and for a directory with
// no model or several.
absl::StatusOr<ModelPath> ResolveModelPath(const std::string& path);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_MODEL_PATH_H_
