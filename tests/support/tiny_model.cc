#include "tests/support/tiny_model.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace kvlink::testing {
namespace {

using Json = nlohmann::json;

// Pairs that become one token, in order of rank; "\u0120" is GPT-2's letter for a space.
constexpr std::pair<const char*, const char*> kMerges[] = {
    {"\u0120", "t"}, {"h", "e"},  {"\u0120t", "he"}, {"i", "n"},      {"a", "n"},       {"e", "r"},
    {"\u0120", "a"}, {"o", "n"},  {"r", "e"},        {"\u0120", "s"}, {"o", "r"},       {"e", "n"},
    {"an", "d"},     {"in", "g"}, {"\u0120", "w"},   {"\u0120", "o"}, {"\u0120o", "f"}, {"\u0120a", "nd"},
    {"n", "d"},      {"i", "s"},  {"e", "s"},        {"l", "l"}};

std::string Utf8(int code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

// GPT-2's letter for each byte: printable bytes stand for themselves, the others get the letters from U+0100 on.
std::vector<std::string> ByteLetters() {
  std::vector<std::string> letters;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    letters.push_back(Utf8(printable ? byte : next++));
  }
  return letters;
}

Json TokenizerJson() {
  Json vocab = Json::object();
  Json added = Json::array();
  for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    const int id = static_cast<int>(vocab.size());
    added.push_back({{"id", id},
                     {"content", control},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
    vocab[control] = id;
  }
  for (const std::string& letter : ByteLetters()) vocab[letter] = vocab.size();
  Json merges = Json::array();
  for (const auto& [left, right] : kMerges) {
    const std::string joined = absl::StrCat(left, right);
    if (!vocab.contains(joined)) vocab[joined] = vocab.size();
    merges.push_back(absl::StrCat(left, " ", right));
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", merges}}}};
}

Json TokenizerConfigJson() {
  return {{"chat_template",
           "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
           "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"},
          {"bos_token", nullptr},
          {"eos_token", "<|im_end|>"}};
}

absl::StatusOr<Json> ConfigJson(const TinyModelOptions& options) {
  const std::vector<std::pair<std::string, std::string>> names = {{"llama", "LlamaForCausalLM"},
                                                                  {"mistral", "MistralForCausalLM"},
                                                                  {"qwen2", "Qwen2ForCausalLM"},
                                                                  {"qwen3", "Qwen3ForCausalLM"}};
  for (const auto& [type, name] : names) {
    if (type != options.architecture) continue;
    Json config = {{"architectures", {name}},
                   {"model_type", type},
                   {"hidden_act", "silu"},
                   {"hidden_size", options.hidden},
                   {"intermediate_size", options.intermediate},
                   {"num_hidden_layers", options.layers},
                   {"num_attention_heads", options.heads},
                   {"num_key_value_heads", options.kv_heads},
                   {"head_dim", options.head_dim},
                   {"vocab_size", options.vocab},
                   {"max_position_embeddings", options.context},
                   {"rms_norm_eps", 1e-5},
                   {"rope_theta", options.rope_theta},
                   {"tie_word_embeddings", options.tied},
                   {"eos_token_id", kTinyEnd},
                   {"torch_dtype", "float32"}};
    if (options.window > 0) config["sliding_window"] = options.window;
    if (!options.rope_scaling.empty()) config["rope_scaling"] = Json::parse(options.rope_scaling);
    return config;
  }
  return absl::InvalidArgumentError(absl::StrCat("no tiny ", options.architecture));
}

// Collects random tensors and writes them as one safetensors file.
class TensorWriter {
 public:
  explicit TensorWriter(uint64_t seed) : random_(seed) {}

  void Add(const std::string& name, std::vector<int64_t> shape, float mean, float deviation) {
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    const size_t begin = data_.size() * sizeof(float);
    // Sums of uniforms from raw bits: std::normal_distribution differs between libraries.
    for (int64_t i = 0; i < elements; ++i) {
      double sum = 0;
      for (int k = 0; k < 4; ++k) sum += static_cast<double>(random_() >> 11) * 0x1p-53 - 0.5;
      data_.push_back(mean + deviation * static_cast<float>(sum * std::sqrt(3.0)));
    }
    header_[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data_.size() * sizeof(float)}}};
  }
  void Matrix(const std::string& name, int64_t rows, int64_t columns) {
    Add(name, {rows, columns}, 0, 1 / std::sqrt(static_cast<float>(columns)));
  }
  void Norm(const std::string& name, int64_t size) { Add(name, {size}, 1, 0.1f); }

  std::string Bytes() const {
    std::string header = header_.dump();
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    std::string out(reinterpret_cast<const char*>(&length), sizeof(length));
    out += header;
    out.append(reinterpret_cast<const char*>(data_.data()), data_.size() * sizeof(float));
    return out;
  }

 private:
  std::mt19937_64 random_;
  Json header_ = Json::object();
  std::vector<float> data_;
};

std::string Tensors(const TinyModelOptions& o) {
  TensorWriter writer(o.seed);
  writer.Add("model.embed_tokens.weight", {o.vocab, o.hidden}, 0, 1);
  for (int64_t layer = 0; layer < o.layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const std::pair<const char*, int64_t> projections[] = {{"q", o.heads}, {"k", o.kv_heads}, {"v", o.kv_heads}};
    for (const auto& [name, heads] : projections) {
      writer.Matrix(absl::StrCat(prefix, "self_attn.", name, "_proj.weight"), heads * o.head_dim, o.hidden);
      if (o.architecture != "qwen2") continue;
      writer.Add(absl::StrCat(prefix, "self_attn.", name, "_proj.bias"), {heads * o.head_dim}, 0, 0.3f);
    }
    if (o.architecture == "qwen3") {
      writer.Norm(prefix + "self_attn.q_norm.weight", o.head_dim);
      writer.Norm(prefix + "self_attn.k_norm.weight", o.head_dim);
    }
    writer.Matrix(prefix + "self_attn.o_proj.weight", o.hidden, o.heads * o.head_dim);
    writer.Matrix(prefix + "mlp.gate_proj.weight", o.intermediate, o.hidden);
    writer.Matrix(prefix + "mlp.up_proj.weight", o.intermediate, o.hidden);
    writer.Matrix(prefix + "mlp.down_proj.weight", o.hidden, o.intermediate);
    writer.Norm(prefix + "input_layernorm.weight", o.hidden);
    writer.Norm(prefix + "post_attention_layernorm.weight", o.hidden);
  }
  writer.Norm("model.norm.weight", o.hidden);
  if (!o.tied) writer.Matrix("lm_head.weight", o.vocab, o.hidden);
  return writer.Bytes();
}

}  // namespace

absl::Status WriteTinyModel(const std::string& directory, const TinyModelOptions& options) {
  if (options.vocab < 290) return absl::InvalidArgumentError("the tokenizer of a tiny model needs 290 tokens");
  KVLINK_ASSIGN_OR_RETURN(const Json config, ConfigJson(options));
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  const std::pair<const char*, std::string> files[] = {{"config.json", config.dump(1)},
                                                       {"model.safetensors", Tensors(options)},
                                                       {"tokenizer.json", TokenizerJson().dump(1)},
                                                       {"tokenizer_config.json", TokenizerConfigJson().dump(1)}};
  for (const auto& [name, bytes] : files) {
    const std::string path = absl::StrCat(directory, "/", name);
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    out.close();
    if (!out) return absl::InternalError(absl::StrCat(path, ": cannot be written"));
  }
  return absl::OkStatus();
}

}  // namespace kvlink::testing
