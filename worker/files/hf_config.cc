// Reads config.json as transformers does, including defaults and precedence. Keys that would change the result but are
// not supported are refused by name.
#include "worker/files/hf_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace kvlink::model {
namespace {

using Json = nlohmann::json;

// A string that begins with a zero character is none of the file's.
constexpr absl::string_view kQuote = "\"\\u0000";
constexpr absl::string_view kNonFinite[] = {"-Infinity", "Infinity", "NaN"};

absl::StatusOr<Json> ParseObject(absl::string_view text, absl::string_view what) {
  // Using such a value is then an error that names the key.
  Json json = Json::parse(QuoteNonFinite(text), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(what, " is not a JSON object"));
  return json;
}

// Reads keys of one JSON object; null counts as missing, as in the libraries that write these files.
class ObjectReader {
 public:
  explicit ObjectReader(const Json& object) : object_(object) {}

  const Json* Find(absl::string_view key) const {
    const auto it = object_.find(std::string(key));
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  // Also true for null.
  bool Has(absl::string_view key) const { return object_.contains(std::string(key)); }
  absl::StatusOr<std::optional<int64_t>> Integer(absl::string_view key) const {
    const Json* value = Find(key);
    if (value == nullptr) return std::optional<int64_t>();
    if (value->is_number_unsigned() && value->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)) {
      return std::optional<int64_t>(static_cast<int64_t>(value->get<uint64_t>()));
    }
    if (value->is_number_integer() && !value->is_number_unsigned())
      return std::optional<int64_t>(value->get<int64_t>());
    return Wrong(key, "integer");
  }
  absl::StatusOr<int64_t> Required(absl::string_view key) const {
    KVLINK_ASSIGN_OR_RETURN(const auto value, Integer(key));
    if (!value.has_value()) return absl::InvalidArgumentError(absl::StrCat("key ", key, " is missing"));
    return *value;
  }
  absl::StatusOr<std::optional<double>> Number(absl::string_view key) const {
    const Json* value = Find(key);
    if (value == nullptr) return std::optional<double>();
    if (!value->is_number() || !std::isfinite(value->get<double>())) return Wrong(key, "number");
    return std::optional<double>(value->get<double>());
  }
  absl::StatusOr<double> NumberOr(absl::string_view key, double otherwise) const {
    KVLINK_ASSIGN_OR_RETURN(const auto value, Number(key));
    return value.value_or(otherwise);
  }
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool otherwise) const {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return Wrong(key, "boolean");
    return value->get<bool>();
  }
  absl::StatusOr<std::string> StringOr(absl::string_view key, absl::string_view otherwise) const {
    const Json* value = Find(key);
    if (value == nullptr) return std::string(otherwise);
    if (!value->is_string()) return Wrong(key, "string");
    return value->get<std::string>();
  }

 private:
  static absl::Status Wrong(absl::string_view key, absl::string_view expected) {
    return absl::InvalidArgumentError(absl::StrCat("key ", key, " is not of type ", expected));
  }
  const Json& object_;
};

absl::StatusOr<std::string> Architecture(const ObjectReader& reader) {
  const Json* list = reader.Find("architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !(*list)[0].is_string()) {
    return absl::InvalidArgumentError("key architectures is missing or not a list of one name");
  }
  const std::string name = (*list)[0].get<std::string>();
  static constexpr std::pair<absl::string_view, absl::string_view> kNames[] = {{"LlamaForCausalLM", "llama"},
                                                                               {"MistralForCausalLM", "mistral"},
                                                                               {"MinistralForCausalLM", "mistral"},
                                                                               {"Qwen2ForCausalLM", "qwen2"},
                                                                               {"Qwen3ForCausalLM", "qwen3"}};
  for (const auto& [long_name, short_name] : kNames) {
    if (name == long_name) return std::string(short_name);
  }
  return absl::UnimplementedError(
      absl::StrCat("architecture ", absl::Utf8SafeCEscape(name),
                   " is not supported; LlamaForCausalLM, "
                   "MistralForCausalLM, MinistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM are"));
}

absl::Status RefuseVariants(const ObjectReader& reader) {
  if (reader.Find("quantization_config") != nullptr) {
    return absl::UnimplementedError(
        "key quantization_config: quantised checkpoints are not supported; use the F32, F16 or BF16 "
        "one, or a GGUF");
  }
  KVLINK_ASSIGN_OR_RETURN(const std::string activation, reader.StringOr("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return absl::UnimplementedError(
        absl::StrCat("key hidden_act is ", absl::Utf8SafeCEscape(activation), "; silu (swish) is supported"));
  }
  return absl::OkStatus();
}

// llama and qwen3 read attention_bias, and llama mlp_bias; qwen2 always has biases for q, k and v, mistral never.
absl::Status ReadBiases(const ObjectReader& reader, ModelConfig* config) {
  const bool llama = config->architecture == "llama";
  config->qkv_bias = config->architecture == "qwen2";
  if (llama || config->architecture == "qwen3") {
    KVLINK_ASSIGN_OR_RETURN(const bool attention, reader.BoolOr("attention_bias", false));
    config->qkv_bias = config->output_bias = attention;
  }
  if (llama) {
    KVLINK_ASSIGN_OR_RETURN(config->mlp_bias, reader.BoolOr("mlp_bias", false));
  }
  return absl::OkStatus();
}

absl::Status RefusePartialRotation(const ObjectReader& reader) {
  KVLINK_ASSIGN_OR_RETURN(const double share, reader.NumberOr("partial_rotary_factor", 1));
  if (share != 1) {
    return absl::UnimplementedError(
        absl::StrCat("key partial_rotary_factor is ", share, ": these architectures rotate whole heads"));
  }
  return absl::OkStatus();
}

// rope_parameters (new) holds everything; rope_theta and rope_scaling (old) split it. The type is "rope_type" or
// "type".
absl::StatusOr<kernels::RopeConfig> ReadRope(const ObjectReader& reader, int64_t head_dim, int64_t context) {
  using Type = kernels::RopeConfig::Type;
  KVLINK_RETURN_IF_ERROR(RefusePartialRotation(reader));
  kernels::RopeConfig rope;
  rope.rotary_dim = head_dim;
  KVLINK_ASSIGN_OR_RETURN(rope.theta, reader.NumberOr("rope_theta", 10000));
  // If both exist, transformers lets the old key win entirely, unless it is empty: users add it by hand, following a
  // model card.
  const Json* parameters = reader.Find("rope_scaling");
  if (parameters == nullptr || parameters->empty()) parameters = reader.Find("rope_parameters");
  if (parameters == nullptr) return rope;
  if (!parameters->is_object())
    return absl::InvalidArgumentError("key rope_parameters or rope_scaling is not an object");
  const ObjectReader p(*parameters);
  for (const absl::string_view key : {"full_attention", "sliding_attention"}) {
    if (p.Find(key) != nullptr) {
      return absl::UnimplementedError("key rope_parameters: a different rope for each layer type is not supported");
    }
  }
  KVLINK_RETURN_IF_ERROR(RefusePartialRotation(p));
  KVLINK_ASSIGN_OR_RETURN(const std::string old_type, p.StringOr("type", "default"));
  KVLINK_ASSIGN_OR_RETURN(const std::string type, p.StringOr("rope_type", old_type));
  KVLINK_ASSIGN_OR_RETURN(rope.type, kernels::ParseRopeType(type));
  KVLINK_ASSIGN_OR_RETURN(rope.theta, p.NumberOr("rope_theta", rope.theta));
  if (rope.type == Type::kDefault) return rope;
  KVLINK_ASSIGN_OR_RETURN(const auto outer_original, reader.Integer("original_max_position_embeddings"));
  KVLINK_ASSIGN_OR_RETURN(const auto original, p.Integer("original_max_position_embeddings"));
  rope.original_context = outer_original.value_or(original.value_or(context));
  KVLINK_ASSIGN_OR_RETURN(auto factor, p.Number("factor"));
  // A null yarn factor is derived from the lengths.
  if (!factor.has_value() && rope.type == Type::kYarn && p.Has("factor") && rope.original_context > 0) {
    factor = static_cast<double>(context) / static_cast<double>(rope.original_context);
  }
  if (!factor.has_value())
    return absl::InvalidArgumentError(absl::StrCat("key factor of rope type ", type, " is missing"));
  rope.factor = *factor;
  if (rope.type == Type::kLinear) return rope;
  if (rope.type == Type::kLlama3) {
    KVLINK_ASSIGN_OR_RETURN(const auto low, p.Number("low_freq_factor"));
    KVLINK_ASSIGN_OR_RETURN(const auto high, p.Number("high_freq_factor"));
    if (!low.has_value() || !high.has_value()) {
      return absl::InvalidArgumentError("key low_freq_factor or high_freq_factor of rope type llama3 is missing");
    }
    rope.low_freq_factor = *low;
    rope.high_freq_factor = *high;
    return rope;
  }
  KVLINK_ASSIGN_OR_RETURN(rope.beta_fast, p.NumberOr("beta_fast", 32));
  KVLINK_ASSIGN_OR_RETURN(rope.beta_slow, p.NumberOr("beta_slow", 1));
  KVLINK_ASSIGN_OR_RETURN(rope.attention_factor, p.NumberOr("attention_factor", 0));
  KVLINK_ASSIGN_OR_RETURN(rope.mscale, p.NumberOr("mscale", 0));
  KVLINK_ASSIGN_OR_RETURN(rope.mscale_all_dim, p.NumberOr("mscale_all_dim", 0));
  KVLINK_ASSIGN_OR_RETURN(rope.truncate, p.BoolOr("truncate", true));
  return rope;
}

// llama ignores the key. mistral has a window of 4,096 unless the file gives another or null, in all layers or, for
// Ministral, in those named by layer_types. qwen2 and qwen3 have one where layer_types or max_window_layers says so.
absl::Status ReadWindows(const ObjectReader& reader, ModelConfig* config) {
  constexpr int64_t kMistralWindow = 4096;
  config->window.assign(config->layers, 0);
  if (config->architecture == "llama") return absl::OkStatus();
  const bool mistral = config->architecture == "mistral";
  KVLINK_ASSIGN_OR_RETURN(auto window, reader.Integer("sliding_window"));
  if (mistral && !reader.Has("sliding_window")) window = kMistralWindow;
  bool use = true;
  if (!mistral) {
    KVLINK_ASSIGN_OR_RETURN(use, reader.BoolOr("use_sliding_window", false));
  }
  if (const Json* types = reader.Find("layer_types"); types != nullptr) {
    if (!types->is_array() || static_cast<int64_t>(types->size()) != config->layers) {
      return absl::InvalidArgumentError(absl::StrCat("key layer_types is not a list of ", config->layers, " names"));
    }
    for (int64_t l = 0; l < config->layers; ++l) {
      const Json& type = (*types)[l];
      if (type == "full_attention") continue;
      if (type != "sliding_attention") {
        return absl::UnimplementedError(
            absl::StrCat("key layer_types: layer ", l, " is neither full_attention nor sliding_attention"));
      }
      if (!use || !window.has_value()) {
        return absl::InvalidArgumentError(
            "key layer_types asks for sliding_attention, but sliding_window is not in use");
      }
      config->window[l] = *window;
    }
    return absl::OkStatus();
  }
  if (!use || !window.has_value()) return absl::OkStatus();
  int64_t first = 0;
  if (!mistral) {
    KVLINK_ASSIGN_OR_RETURN(first, reader.Required("max_window_layers"));
  }
  for (int64_t l = std::max<int64_t>(first, 0); l < config->layers; ++l) config->window[l] = *window;
  return absl::OkStatus();
}

// eos_token_id is a number or a list of them.
absl::Status ReadEnds(const ObjectReader& reader, ModelConfig* config) {
  const Json* value = reader.Find("eos_token_id");
  if (value == nullptr) return absl::OkStatus();
  const Json list = value->is_array() ? *value : Json::array({*value});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= config->vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("key eos_token_id holds something other than token ids below vocab_size ", config->vocab));
    }
    config->end_of_sequence.push_back(static_cast<int32_t>(id.get<int64_t>()));
  }
  std::vector<int32_t>& ends = config->end_of_sequence;
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return absl::OkStatus();
}

absl::Status ReadShapes(const ObjectReader& reader, ModelConfig* config) {
  KVLINK_ASSIGN_OR_RETURN(config->layers, reader.Required("num_hidden_layers"));
  KVLINK_ASSIGN_OR_RETURN(config->hidden, reader.Required("hidden_size"));
  KVLINK_ASSIGN_OR_RETURN(config->intermediate, reader.Required("intermediate_size"));
  KVLINK_ASSIGN_OR_RETURN(config->heads, reader.Required("num_attention_heads"));
  KVLINK_ASSIGN_OR_RETURN(const auto kv_heads, reader.Integer("num_key_value_heads"));
  if (!kv_heads.has_value() && config->architecture != "llama") {
    return absl::InvalidArgumentError("key num_key_value_heads is missing");
  }
  config->kv_heads = kv_heads.value_or(config->heads);
  KVLINK_ASSIGN_OR_RETURN(const auto head_dim, reader.Integer("head_dim"));
  if (head_dim.has_value()) {
    config->head_dim = *head_dim;
  } else if (config->architecture == "qwen3") {
    config->head_dim = 128;
  } else {
    if (config->heads < 1 || config->hidden % config->heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat("key hidden_size is ", config->hidden, ", not a multiple of the ",
                                                     config->heads, " heads, and head_dim is missing"));
    }
    config->head_dim = config->hidden / config->heads;
  }
  KVLINK_ASSIGN_OR_RETURN(config->vocab, reader.Required("vocab_size"));
  KVLINK_ASSIGN_OR_RETURN(config->context, reader.Required("max_position_embeddings"));
  KVLINK_ASSIGN_OR_RETURN(config->rms_eps, reader.NumberOr("rms_norm_eps", 1e-6));
  KVLINK_ASSIGN_OR_RETURN(config->tied_embeddings, reader.BoolOr("tie_word_embeddings", false));
  KVLINK_RETURN_IF_ERROR(ReadBiases(reader, config));
  config->qk_norm = config->architecture == "qwen3";
  config->rope.rotary_dim = config->head_dim;
  // Check before they determine an allocation.
  config->window.assign(config->layers > 0 && config->layers <= 1024 ? config->layers : 0, 0);
  return config->Validate();
}

}  // namespace

std::string QuoteNonFinite(absl::string_view json) {
  std::string out;
  bool quoted = false;
  for (size_t i = 0; i < json.size(); ++i) {
    if (quoted && json[i] == '\\' && i + 1 < json.size()) {
      out += json[i++];
    } else if (json[i] == '"') {
      quoted = !quoted;
    } else if (!quoted) {
      absl::string_view word;
      for (const absl::string_view name : kNonFinite) {
        if (absl::StartsWith(json.substr(i), name)) word = name;
      }
      if (!word.empty()) {
        absl::StrAppend(&out, kQuote, word, "\"");
        i += word.size() - 1;
        continue;
      }
    }
    out += json[i];
  }
  return out;
}

std::string UnquoteNonFinite(absl::string_view json) {
  std::string out(json);
  for (const absl::string_view word : kNonFinite) absl::StrReplaceAll({{absl::StrCat(kQuote, word, "\""), word}}, &out);
  return out;
}

absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view config_text, absl::string_view generation_config) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(config_text, "config.json"));
  const ObjectReader reader(json);
  ModelConfig config;
  KVLINK_ASSIGN_OR_RETURN(config.architecture, Architecture(reader));
  KVLINK_RETURN_IF_ERROR(RefuseVariants(reader));
  KVLINK_RETURN_IF_ERROR(ReadShapes(reader, &config));
  KVLINK_RETURN_IF_ERROR(ReadWindows(reader, &config));
  KVLINK_ASSIGN_OR_RETURN(config.rope, ReadRope(reader, config.head_dim, config.context));
  KVLINK_ASSIGN_OR_RETURN(const auto bos, reader.Integer("bos_token_id"));
  if (bos.has_value()) config.bos = *bos >= 0 && *bos < config.vocab ? static_cast<int32_t>(*bos) : -1;
  KVLINK_RETURN_IF_ERROR(ReadEnds(reader, &config));
  if (!generation_config.empty()) {
    KVLINK_ASSIGN_OR_RETURN(const Json generation, ParseObject(generation_config, "generation_config.json"));
    KVLINK_RETURN_IF_ERROR(Annotate(ReadEnds(ObjectReader(generation), &config), "generation_config.json"));
  }
  KVLINK_RETURN_IF_ERROR(config.Validate());
  KVLINK_RETURN_IF_ERROR(kernels::MakeRope(config.rope).status());
  return config;
}

absl::StatusOr<std::string> ParseHfChatTemplate(absl::string_view tokenizer_config) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(tokenizer_config, "tokenizer_config.json"));
  const ObjectReader reader(json);
  const Json* value = reader.Find("chat_template");
  if (value == nullptr) return std::string();
  if (value->is_string()) return value->get<std::string>();
  if (value->is_array()) {
    for (const Json& entry : *value) {
      if (!entry.is_object()) break;
      const ObjectReader named(entry);
      KVLINK_ASSIGN_OR_RETURN(const std::string name, named.StringOr("name", ""));
      if (name == "default") return named.StringOr("template", "");
    }
  }
  return absl::InvalidArgumentError(
      "tokenizer_config.json: key chat_template is neither a string nor a list with a \"default\"");
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseSafetensorsIndex(absl::string_view index) {
  KVLINK_ASSIGN_OR_RETURN(const Json json, ParseObject(index, "model.safetensors.index.json"));
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object()) {
    return absl::InvalidArgumentError("model.safetensors.index.json: key weight_map is not an object");
  }
  std::vector<std::pair<std::string, std::string>> entries;
  entries.reserve(map->size());
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.safetensors.index.json: tensor ", absl::Utf8SafeCEscape(tensor), " has no file name"));
    }
    const std::string& name = file.get_ref<const std::string&>();
    // Only plain names, so that an index cannot point outside its directory.
    if (name.find('/') != std::string::npos || name.find('\0') != std::string::npos ||
        !absl::EndsWith(name, ".safetensors")) {
      return absl::InvalidArgumentError(absl::StrCat("model.safetensors.index.json: tensor ",
                                                     absl::Utf8SafeCEscape(tensor),
                                                     " is not in a plain .safetensors file"));
    }
    entries.emplace_back(tensor, name);
  }
  return entries;
}

}  // namespace kvlink::model
