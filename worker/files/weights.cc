// One set of canonical names over both containers. Reading undoes what GGUF converters change (names, the order of Q
// and K rows), and shapes are checked before any computation.
#include "worker/files/weights.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "worker/files/gguf.h"
#include "worker/files/hf_config.h"
#include "worker/files/mapped_file.h"
#include "worker/files/model_path.h"
#include "worker/files/safetensors.h"
#include "worker/files/tensor_format.h"

namespace kvlink::model {
namespace {

namespace fs = std::filesystem;

// The GGUF name of a canonical tensor; empty if it has none.
std::string GgufName(absl::string_view canonical) {
  static constexpr std::pair<absl::string_view, absl::string_view> kGlobal[] = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"}};
  static constexpr std::pair<absl::string_view, absl::string_view> kLayer[] = {
      {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  for (const auto& [name, gguf] : kGlobal) {
    if (canonical == name) return std::string(gguf);
  }
  if (!absl::ConsumePrefix(&canonical, "model.layers.")) return "";
  const size_t dot = canonical.find('.');
  const size_t last = canonical.rfind('.');
  if (dot == absl::string_view::npos || last <= dot) return "";
  for (const auto& [name, gguf] : kLayer) {
    if (canonical.substr(dot + 1, last - dot - 1) == name) {
      return absl::StrCat("blk.", canonical.substr(0, dot), ".", gguf, canonical.substr(last));
    }
  }
  return "";
}

class SourceWeights : public Weights {
 public:
  // What a source passes to the shared implementation.
  struct Source {
    ModelConfig config;
    std::vector<SourceTensor> tensors;
    std::vector<std::string> files;
    std::vector<std::unique_ptr<MappedFile>> mappings;
    std::string chat_template;
    bool gguf_names = false;
    bool bare_names = false;  // without "model.": saved from the base model
    // Q and K rows are in the order of interleaved rotation pairs (llama conversions).
    bool interleaved = false;
  };

  static absl::StatusOr<std::unique_ptr<Weights>> Make(Source source) {
    std::sort(source.tensors.begin(), source.tensors.end(),
              [](const SourceTensor& a, const SourceTensor& b) { return a.name < b.name; });
    for (size_t i = 1; i < source.tensors.size(); ++i) {
      if (source.tensors[i].name == source.tensors[i - 1].name) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", absl::Utf8SafeCEscape(source.tensors[i].name), " is in two files"));
      }
    }
    std::unique_ptr<SourceWeights> weights(new SourceWeights(std::move(source)));
    KVLINK_RETURN_IF_ERROR(weights->CheckShapes());
    return weights;
  }

  const ModelConfig& config() const override { return source_.config; }
  const std::vector<SourceTensor>& tensors() const override { return source_.tensors; }
  const std::vector<std::string>& files() const override { return source_.files; }
  absl::string_view chat_template() const override { return source_.chat_template; }
  bool Has(absl::string_view canonical_name) const override { return Find(canonical_name) != nullptr; }

  absl::Status Read(absl::string_view canonical_name, int64_t row_begin, int64_t rows,
                    absl::Span<float> out) const override {
    const SourceTensor* tensor = Find(canonical_name);
    if (tensor == nullptr) {
      return absl::NotFoundError(absl::StrCat(source_.files[0], ": the model has no tensor ", canonical_name));
    }
    const auto fail = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(source_.files[0], ": tensor ", tensor->name, ": ", what));
    };
    const TensorFormat* format = FindTensorFormat(tensor->type);
    if (format == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat(source_.files[0], ": tensor ", tensor->name, " is of type ", tensor->type,
                       ", which cannot be read as a weight; convert it to F32, F16 or BF16"));
    }
    if (tensor->shape.empty()) return fail("is a single number");
    int64_t columns = 1;
    for (size_t i = 1; i < tensor->shape.size(); ++i) columns *= tensor->shape[i];
    if (columns % format->block_elements != 0) return fail("has rows that are not a whole number of blocks");
    if (row_begin < 0 || rows < 0 || rows > tensor->shape[0] - row_begin) {
      return fail(absl::StrCat("rows ", row_begin, " to ", row_begin + rows, " asked of ", tensor->shape[0]));
    }
    if (static_cast<int64_t>(out.size()) != rows * columns) {
      return fail(absl::StrCat(out.size(), " elements asked of ", rows, " rows of ", columns));
    }
    const int64_t blocks = columns / format->block_elements;
    const int64_t row_bytes = blocks * format->block_bytes;
    const int64_t head_dim = source_.config.head_dim;
    if (!Permuted(canonical_name)) {
      format->expand(tensor->bytes.data() + row_begin * row_bytes, rows * blocks, out.data());
      return absl::OkStatus();
    }
    if (tensor->shape[0] % head_dim != 0) return fail("has no whole number of heads");
    for (int64_t i = 0; i < rows; ++i) {
      // Row (half s, pair p) of a head is stored at 2p + s.
      const int64_t row = row_begin + i, in_head = row % head_dim;
      const int64_t stored = row - in_head + in_head % (head_dim / 2) * 2 + in_head / (head_dim / 2);
      format->expand(tensor->bytes.data() + stored * row_bytes, blocks, out.data() + i * columns);
    }
    return absl::OkStatus();
  }

 private:
  explicit SourceWeights(Source source) : source_(std::move(source)) {
    for (const SourceTensor& tensor : source_.tensors) index_.emplace(tensor.name, &tensor);
  }

  absl::Status CheckShape(const std::string& canonical_name, std::vector<int64_t> shape) const {
    const SourceTensor* tensor = Find(canonical_name);
    if (tensor == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", canonical_name, " is missing"));
    }
    if (FindTensorFormat(tensor->type) == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("tensor ", tensor->name, " is of type ", tensor->type,
                       ", which cannot be read as a weight; convert it to F32, F16 or BF16"));
    }
    if (tensor->shape == shape) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor->name, " has shape [",
                                                   absl::StrJoin(tensor->shape, ", "), "], the configuration says [",
                                                   absl::StrJoin(shape, ", "), "]"));
  }

  // Checks that every tensor of a forward pass exists and has the configured size.
  absl::Status CheckShapes() const {
    const ModelConfig& c = source_.config;
    const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    KVLINK_RETURN_IF_ERROR(CheckShape("model.embed_tokens.weight", {c.vocab, c.hidden}));
    KVLINK_RETURN_IF_ERROR(CheckShape("model.norm.weight", {c.hidden}));
    if (!c.tied_embeddings) KVLINK_RETURN_IF_ERROR(CheckShape("lm_head.weight", {c.vocab, c.hidden}));
    for (int64_t l = 0; l < c.layers; ++l) {
      const std::string layer = absl::StrCat("model.layers.", l, ".");
      const std::string attention = layer + "self_attn.";
      KVLINK_RETURN_IF_ERROR(CheckShape(layer + "input_layernorm.weight", {c.hidden}));
      KVLINK_RETURN_IF_ERROR(CheckShape(layer + "post_attention_layernorm.weight", {c.hidden}));
      KVLINK_RETURN_IF_ERROR(CheckShape(attention + "q_proj.weight", {q, c.hidden}));
      KVLINK_RETURN_IF_ERROR(CheckShape(attention + "k_proj.weight", {kv, c.hidden}));
      KVLINK_RETURN_IF_ERROR(CheckShape(attention + "v_proj.weight", {kv, c.hidden}));
      KVLINK_RETURN_IF_ERROR(CheckShape(attention + "o_proj.weight", {c.hidden, q}));
      if (c.qkv_bias) {
        KVLINK_RETURN_IF_ERROR(CheckShape(attention + "q_proj.bias", {q}));
        KVLINK_RETURN_IF_ERROR(CheckShape(attention + "k_proj.bias", {kv}));
        KVLINK_RETURN_IF_ERROR(CheckShape(attention + "v_proj.bias", {kv}));
      }
      if (c.output_bias) KVLINK_RETURN_IF_ERROR(CheckShape(attention + "o_proj.bias", {c.hidden}));
      if (c.mlp_bias) {
        KVLINK_RETURN_IF_ERROR(CheckShape(layer + "mlp.gate_proj.bias", {c.intermediate}));
        KVLINK_RETURN_IF_ERROR(CheckShape(layer + "mlp.up_proj.bias", {c.intermediate}));
        KVLINK_RETURN_IF_ERROR(CheckShape(layer + "mlp.down_proj.bias", {c.hidden}));
      }
      if (c.qk_norm) {
        KVLINK_RETURN_IF_ERROR(CheckShape(attention + "q_norm.weight", {c.head_dim}));
        KVLINK_RETURN_IF_ERROR(CheckShape(attention + "k_norm.weight", {c.head_dim}));
      }
      KVLINK_RETURN_IF_ERROR(CheckShape(layer + "mlp.gate_proj.weight", {c.intermediate, c.hidden}));
      KVLINK_RETURN_IF_ERROR(CheckShape(layer + "mlp.up_proj.weight", {c.intermediate, c.hidden}));
      KVLINK_RETURN_IF_ERROR(CheckShape(layer + "mlp.down_proj.weight", {c.hidden, c.intermediate}));
    }
    return absl::OkStatus();
  }

  const SourceTensor* Find(absl::string_view canonical_name) const {
    if (source_.bare_names) absl::ConsumePrefix(&canonical_name, "model.");
    const auto it = source_.gguf_names ? index_.find(GgufName(canonical_name)) : index_.find(canonical_name);
    return it == index_.end() ? nullptr : it->second;
  }
  bool Permuted(absl::string_view canonical_name) const {
    return source_.interleaved && (absl::StrContains(canonical_name, ".self_attn.q_proj.") ||
                                   absl::StrContains(canonical_name, ".self_attn.k_proj."));
  }

  const Source source_;
  absl::flat_hash_map<std::string, const SourceTensor*> index_;
};

absl::StatusOr<std::unique_ptr<Weights>> OpenGguf(const std::string& path) {
  SourceWeights::Source source;
  KVLINK_ASSIGN_OR_RETURN(auto mapped, MappedFile::Open(path));
  KVLINK_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Parse(mapped->bytes()));
  KVLINK_ASSIGN_OR_RETURN(source.config, GgufModelConfig(file));
  KVLINK_ASSIGN_OR_RETURN(const auto chat_template, file.String("tokenizer.chat_template"));
  source.chat_template = std::string(chat_template.value_or(""));
  source.gguf_names = true;
  source.interleaved = source.config.architecture == "llama";
  source.tensors = file.tensors();
  source.files.push_back(path);
  source.mappings.push_back(std::move(mapped));
  return SourceWeights::Make(std::move(source));
}

// An optional small file: empty if it does not exist.
absl::StatusOr<std::string> ReadOptional(const fs::path& path) {
  absl::StatusOr<std::string> text = ReadSmallFile(path.string(), kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) return std::string();
  return text;
}

// The .safetensors files of a directory, and the contents of its index (empty without one).
struct Shards {
  std::vector<std::string> files;
  std::vector<std::pair<std::string, std::string>> index;  // (tensor, file)
};

absl::StatusOr<Shards> FindShards(const fs::path& directory) {
  Shards shards;
  std::error_code error;
  constexpr int64_t kMaxIndexBytes = 16 << 20;
  // Like transformers, ignore an index beside it.
  if (fs::exists(directory / "model.safetensors", error)) {
    shards.files.push_back("model.safetensors");
    return shards;
  }
  auto index = ReadSmallFile((directory / "model.safetensors.index.json").string(), kMaxIndexBytes);
  if (index.ok()) {
    KVLINK_ASSIGN_OR_RETURN(shards.index, ParseSafetensorsIndex(*index));
    std::set<std::string> names;
    for (const auto& [tensor, file] : shards.index) names.insert(file);
    shards.files.assign(names.begin(), names.end());
    return shards;
  }
  if (!absl::IsNotFound(index.status())) return index.status();
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") shards.files.push_back(it->path().filename().string());
  }
  if (shards.files.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("holds ", shards.files.size(),
                                                   " .safetensors files and neither "
                                                   "model.safetensors nor model.safetensors.index.json"));
  }
  return shards;
}

// The tensor with this name, or nullptr.
const SourceTensor* FindByName(const std::vector<SourceTensor>& tensors, absl::string_view name) {
  const auto it = std::find_if(tensors.begin(), tensors.end(), [&](const SourceTensor& t) { return t.name == name; });
  return it == tensors.end() ? nullptr : &*it;
}

// Tensors override config.json, as in transformers: an output matrix that differs from the embedding is used even if
// the configuration says that the embedding is tied.
void FollowTensors(SourceWeights::Source& source) {
  const SourceTensor* embedding = FindByName(source.tensors, "model.embed_tokens.weight");
  if (embedding == nullptr) {
    embedding = FindByName(source.tensors, "embed_tokens.weight");
    source.bare_names = embedding != nullptr;
  }
  const SourceTensor* head = FindByName(source.tensors, "lm_head.weight");
  if (!source.config.tied_embeddings || embedding == nullptr || head == nullptr) return;
  source.config.tied_embeddings = head->type == embedding->type && head->shape == embedding->shape &&
                                  head->bytes.size() == embedding->bytes.size() &&
                                  std::memcmp(head->bytes.data(), embedding->bytes.data(), head->bytes.size()) == 0;
}

absl::StatusOr<std::unique_ptr<Weights>> OpenDirectory(const std::string& path) {
  const fs::path directory(path);
  SourceWeights::Source source;
  KVLINK_ASSIGN_OR_RETURN(const Shards shards, FindShards(directory));
  absl::flat_hash_map<std::string, std::string> file_of;
  for (const std::string& name : shards.files) {
    const std::string file = (directory / name).string();
    KVLINK_ASSIGN_OR_RETURN(auto mapped, MappedFile::Open(file));
    absl::StatusOr<std::vector<SourceTensor>> tensors = ParseSafetensors(mapped->bytes());
    if (!tensors.ok()) return Annotate(tensors.status(), name);
    for (SourceTensor& tensor : *tensors) {
      file_of.emplace(tensor.name, name);
      source.tensors.push_back(std::move(tensor));
    }
    source.files.push_back(file);
    source.mappings.push_back(std::move(mapped));
  }
  for (const auto& [tensor, file] : shards.index) {
    const auto it = file_of.find(tensor);
    if (it == file_of.end() || it->second != file) {
      return absl::InvalidArgumentError(absl::StrCat("model.safetensors.index.json: tensor ",
                                                     absl::Utf8SafeCEscape(tensor), " is not in ",
                                                     absl::Utf8SafeCEscape(file)));
    }
  }
  const std::string config_path = (directory / "config.json").string();
  source.files.push_back(config_path);
  KVLINK_ASSIGN_OR_RETURN(const std::string config, ReadSmallFile(config_path, kMaxConfigBytes));
  KVLINK_ASSIGN_OR_RETURN(const std::string generation, ReadOptional(directory / "generation_config.json"));
  KVLINK_ASSIGN_OR_RETURN(source.config, ParseHfConfig(config, generation));
  FollowTensors(source);
  KVLINK_ASSIGN_OR_RETURN(source.chat_template, ReadOptional(directory / "chat_template.jinja"));
  if (source.chat_template.empty()) {
    // Larger than other configuration files: it lists the added tokens.
    constexpr int64_t kMaxTokenizerConfigBytes = 16 << 20;
    const auto text = ReadSmallFile((directory / "tokenizer_config.json").string(), kMaxTokenizerConfigBytes);
    if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
    if (text.ok()) {
      KVLINK_ASSIGN_OR_RETURN(source.chat_template, ParseHfChatTemplate(*text));
    }
  }
  return SourceWeights::Make(std::move(source));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Weights>> OpenWeights(const std::string& path) {
  KVLINK_ASSIGN_OR_RETURN(const ModelPath model, ResolveModelPath(path));
  auto weights = model.gguf.empty() ? OpenDirectory(model.directory) : OpenGguf(model.gguf);
  // Errors from opening a file already name it.
  if (!weights.ok() && !absl::StartsWith(weights.status().message(), path)) return Annotate(weights.status(), path);
  return weights;
}

}  // namespace kvlink::model
