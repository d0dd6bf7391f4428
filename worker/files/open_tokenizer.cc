// Finds the files that describe a tokenizer and passes their bytes to the parser in worker/text.
#include "worker/files/open_tokenizer.h"

#include "base/status.h"
#include "worker/files/hf_config.h"
#include "worker/files/mapped_file.h"
#include "worker/files/model_path.h"
#include "worker/text/tokenizer_json.h"

namespace kvlink::model {

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const std::string& path) {
  KVLINK_ASSIGN_OR_RETURN(const ModelPath model, ResolveModelPath(path));
  if (!model.gguf.empty()) {
    KVLINK_ASSIGN_OR_RETURN(GgufTokenizer description, ReadGgufTokenizer(model.gguf));
    auto tokenizer = MakeGgufTokenizer(std::move(description));
    if (!tokenizer.ok()) return Annotate(tokenizer.status(), model.gguf);
    return tokenizer;
  }
  const std::string file = model.directory + "/tokenizer.json";
  const auto json = ReadSmallFile(file, kMaxTokenizerJsonBytes);
  if (!json.ok()) return json.status();
  auto config = ReadSmallFile(model.directory + "/tokenizer_config.json", kMaxConfigBytes);
  if (!config.ok() && !absl::IsNotFound(config.status())) return config.status();
  auto tokenizer = ParseTokenizerFiles(*json, config.ok() ? *config : std::string());
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), file);
  return tokenizer;
}

}  // namespace kvlink::model
