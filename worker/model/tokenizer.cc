#include "worker/model/tokenizer.h"

#include "base/status.h"
#include "worker/model/gguf.h"
#include "worker/model/hf_config.h"
#include "worker/model/mapped_file.h"
#include "worker/model/model_path.h"
#include "worker/model/tokenizer_json.h"
#include "worker/model/unicode.h"

namespace kvlink::model {

absl::StatusOr<std::vector<int32_t>> EncodeSpans(const Tokenizer& tokenizer, absl::Span<const TextSpan> spans) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < spans.size();) {
    std::string text;
    const bool trusted = spans[i].trusted;
    for (; i < spans.size() && (spans[i].trusted == trusted || spans[i].text.empty()); ++i) text += spans[i].text;
    if (text.empty()) continue;
    KVLINK_ASSIGN_OR_RETURN(const std::vector<int32_t> part, ids.empty()
                                                                 ? tokenizer.Encode(text, trusted)
                                                                 : tokenizer.EncodeAfter(ids.back(), text, trusted));
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

std::string StreamDecoder::Push(int32_t id) {
  const std::string bytes = first_ ? tokenizer_->FirstTokenBytes(id) : tokenizer_->TokenBytes(id);
  first_ = first_ && tokenizer_->TokenBytes(id).empty();
  pending_ += bytes;
  std::string out;
  pending_.erase(0, AppendLossyUtf8(pending_, /*final=*/false, out));
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out;
  AppendLossyUtf8(pending_, /*final=*/true, out);
  pending_.clear();
  first_ = true;
  return out;
}

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
