// Where the parts of a model lie: the one interpretation of the path that OpenWeights and OpenTokenizer take.
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

// A file is taken for a GGUF. A directory with config.json is a Hugging Face one; without, it must hold exactly one
// .gguf. NOT_FOUND for a path that is not there; INVALID_ARGUMENT for an empty path, and a
// directory that holds no model or several.
absl::StatusOr<ModelPath> ResolveModelPath(const std::string& path);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_FILES_MODEL_PATH_H_
