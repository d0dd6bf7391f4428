// The single interpretation of a model path, so that weights and tokenizer cannot come from different models.
#include "worker/files/model_path.h"

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kvlink::model {

namespace fs = std::filesystem;

absl::StatusOr<ModelPath> ResolveModelPath(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("the path of the model is empty");
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(absl::StrCat(path, ": no such model; give a .gguf file or a model directory"));
  }
  if (!fs::is_directory(status)) return ModelPath{path, ""};
  if (fs::exists(fs::path(path) / "config.json", error)) return ModelPath{"", path};
  std::vector<std::string> ggufs;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".gguf") ggufs.push_back(it->path().string());
  }
  if (error) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be listed: ", error.message()));
  if (ggufs.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": holds no config.json and ", ggufs.size(),
                                                   " .gguf files; give the .gguf file itself or a model directory"));
  }
  return ModelPath{ggufs[0], ""};
}

}  // namespace kvlink::model
