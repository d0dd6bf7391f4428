// Reads model configuration and tokenizer description from GGUF metadata. Keys are those of ggml's specification.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/files/gguf.h"
#include "worker/files/mapped_file.h"
#include "worker/files/tensor_format.h"

namespace kvlink::model {
namespace {

// Usual names of tokens that end a turn or a text; chat models emit them although only one is declared as eos.
constexpr absl::string_view kEndTokens[] = {"<|endoftext|>",   "<|im_end|>", "<|end_of_text|>", "<|eot_id|>",
                                            "<|eom_id|>",      "<|end|>",    "<end_of_turn>",   "</s>",
                                            "<|end_of_turn|>", "<EOT>"};
constexpr int32_t kControlToken = 3;

// Keys for variants of these architectures that we do not compute, with the value that has no effect.
struct Neutral {
  absl::string_view suffix;
  double value;
};
constexpr Neutral kNeutral[] = {{"expert_count", 0},           {"logit_scale", 1},
                                {"residual_scale", 1},         {"embedding_scale", 1},
                                {"attention.scale", 0},        {"attention.temperature_scale", 0},
                                {"attn_logit_softcapping", 0}, {"final_logit_softcapping", 0},
                                {"attention.clamp_kqv", 0},    {"attention.max_alibi_bias", 0}};

class Reader {
 public:
  Reader(const GgufFile& file, absl::string_view architecture) : file_(file), architecture_(architecture) {}
  std::string Key(absl::string_view suffix) const { return absl::StrCat(architecture_, ".", suffix); }

  absl::StatusOr<int64_t> Required(absl::string_view suffix) const {
    KVLINK_ASSIGN_OR_RETURN(const auto value, file_.Integer(Key(suffix)));
    if (!value.has_value()) return absl::InvalidArgumentError(absl::StrCat("key ", Key(suffix), " is missing"));
    return *value;
  }
  absl::StatusOr<int64_t> IntegerOr(absl::string_view suffix, int64_t otherwise) const {
    KVLINK_ASSIGN_OR_RETURN(const auto value, file_.Integer(Key(suffix)));
    return value.value_or(otherwise);
  }
  absl::StatusOr<double> NumberOr(absl::string_view suffix, double otherwise) const {
    KVLINK_ASSIGN_OR_RETURN(const auto value, file_.Number(Key(suffix)));
    return value.value_or(otherwise);
  }

 private:
  const GgufFile& file_;
  const absl::string_view architecture_;
};

// A missing type, "none" and a factor of 1 all mean no scaling.
absl::StatusOr<kernels::RopeConfig> ReadRope(const GgufFile& file, const Reader& reader, int64_t rotary_dim,
                                             int64_t context) {
  using Type = kernels::RopeConfig::Type;
  kernels::RopeConfig rope;
  rope.rotary_dim = rotary_dim;
  KVLINK_ASSIGN_OR_RETURN(rope.theta, reader.NumberOr("rope.freq_base", 10000));
  KVLINK_ASSIGN_OR_RETURN(const double old_factor, reader.NumberOr("rope.scale_linear", 1));
  KVLINK_ASSIGN_OR_RETURN(const double factor, reader.NumberOr("rope.scaling.factor", old_factor));
  KVLINK_ASSIGN_OR_RETURN(const auto named, file.String(reader.Key("rope.scaling.type")));
  absl::string_view type = named.value_or(factor != 1 && factor != 0 ? "linear" : "none");
  if (type == "none") type = "default";
  KVLINK_ASSIGN_OR_RETURN(rope.type, kernels::ParseRopeType(type));
  if (rope.type == Type::kLlama3) {
    return absl::UnimplementedError(absl::StrCat("key ", reader.Key("rope.scaling.type"),
                                                 " is llama3; a GGUF gives those "
                                                 "frequencies in the tensor rope_freqs.weight"));
  }
  if (rope.type != Type::kDefault) rope.factor = factor;
  if (rope.type == Type::kYarn) {
    KVLINK_ASSIGN_OR_RETURN(rope.original_context, reader.IntegerOr("rope.scaling.original_context_length", context));
    KVLINK_ASSIGN_OR_RETURN(rope.beta_fast, reader.NumberOr("rope.scaling.yarn_beta_fast", 32));
    KVLINK_ASSIGN_OR_RETURN(rope.beta_slow, reader.NumberOr("rope.scaling.yarn_beta_slow", 1));
    KVLINK_ASSIGN_OR_RETURN(const double attn_factor, reader.NumberOr("rope.scaling.attn_factor", 1));
    KVLINK_ASSIGN_OR_RETURN(const double log_multiplier, reader.NumberOr("rope.scaling.yarn_log_multiplier", 0));
    KVLINK_ASSIGN_OR_RETURN(const double yarn_attn_factor, reader.NumberOr("rope.scaling.yarn_attn_factor", 1));
    if (yarn_attn_factor != 1) {
      return absl::UnimplementedError(absl::StrCat("key ", reader.Key("rope.scaling.yarn_attn_factor"), " is ",
                                                   yarn_attn_factor,
                                                   ": readers disagree about it; write rope.scaling.attn_factor"));
    }
    if (log_multiplier != 0) {
      return absl::UnimplementedError(
          absl::StrCat("key ", reader.Key("rope.scaling.yarn_log_multiplier"), " is not supported"));
    }
    // ggml multiplies the derived factor by attn_factor; 0 keeps the derived one.
    if (attn_factor != 1) rope.attention_factor = attn_factor * (0.1 * std::log(factor) + 1);
  }
  if (file.FindTensor("rope_factors_long.weight") != nullptr ||
      file.FindTensor("rope_factors_short.weight") != nullptr) {
    return absl::UnimplementedError(
        "tensor rope_factors_long.weight: longrope angles depend on the length of the text, so keys "
        "cached alone cannot be shifted");
  }
  if (const SourceTensor* divisors = file.FindTensor("rope_freqs.weight"); divisors != nullptr) {
    if (divisors->type != "F32" || divisors->shape != std::vector<int64_t>{rotary_dim / 2}) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor rope_freqs.weight is not ", rotary_dim / 2, " values of F32"));
    }
    rope.frequency_divisors.resize(rotary_dim / 2);
    FindTensorFormat("F32")->expand(divisors->bytes.data(), rotary_dim / 2, rope.frequency_divisors.data());
    for (const float divisor : rope.frequency_divisors) {
      if (!(divisor > 0 && std::isfinite(divisor))) {
        return absl::InvalidArgumentError(absl::StrCat("tensor rope_freqs.weight holds the divisor ", divisor));
      }
    }
  }
  return rope;
}

absl::Status ReadTokens(const GgufFile& file, ModelConfig* config) {
  KVLINK_ASSIGN_OR_RETURN(const auto bos, file.Integer("tokenizer.ggml.bos_token_id"));
  // Some converters write -1 or 2^32 - 1 for "none".
  const auto valid = [&](int64_t id) { return id >= 0 && id < config->vocab; };
  if (bos.has_value() && valid(*bos)) config->bos = static_cast<int32_t>(*bos);
  std::vector<int32_t>& ends = config->end_of_sequence;
  for (const absl::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    KVLINK_ASSIGN_OR_RETURN(const auto id, file.Integer(key));
    if (id.has_value() && valid(*id)) ends.push_back(static_cast<int32_t>(*id));
  }
  KVLINK_ASSIGN_OR_RETURN(const auto tokens, file.Strings("tokenizer.ggml.tokens"));
  KVLINK_ASSIGN_OR_RETURN(const auto types, file.Numbers("tokenizer.ggml.token_type"));
  if (tokens.has_value() && types.has_value() && tokens->size() == types->size()) {
    const absl::flat_hash_set<absl::string_view> known(std::begin(kEndTokens), std::end(kEndTokens));
    for (size_t i = 0; i < tokens->size() && valid(static_cast<int64_t>(i)); ++i) {
      if ((*types)[i] == kControlToken && known.contains((*tokens)[i])) ends.push_back(static_cast<int32_t>(i));
    }
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return absl::OkStatus();
}

absl::Status RefuseVariants(const GgufFile& file, const Reader& reader, absl::string_view architecture) {
  KVLINK_ASSIGN_OR_RETURN(const auto splits, file.Integer("split.count"));
  if (splits.value_or(1) > 1) {
    return absl::UnimplementedError(absl::StrCat("is one of ", *splits, " parts of a split GGUF; merge them first"));
  }
  for (const Neutral& neutral : kNeutral) {
    KVLINK_ASSIGN_OR_RETURN(const double value, reader.NumberOr(neutral.suffix, neutral.value));
    if (value != neutral.value) {
      return absl::UnimplementedError(absl::StrCat("key ", reader.Key(neutral.suffix), " is ", value,
                                                   ": this variant of ", architecture, " is not supported"));
    }
  }
  for (const absl::string_view name :
       {"blk.0.attn_output.bias", "blk.0.ffn_gate.bias", "blk.0.ffn_up.bias", "blk.0.ffn_down.bias",
        "blk.0.attn_qkv.weight", "blk.0.ffn_gate_exps.weight", "output.bias", "blk.0.attn_sinks.weight"}) {
    if (file.FindTensor(name) != nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("tensor ", name, ": this variant of ", architecture, " is not supported"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> GgufModelConfig(const GgufFile& file) {
  KVLINK_ASSIGN_OR_RETURN(const auto architecture, file.String("general.architecture"));
  if (!architecture.has_value()) return absl::InvalidArgumentError("key general.architecture is missing");
  if (*architecture != "llama" && *architecture != "qwen2" && *architecture != "qwen3") {
    return absl::UnimplementedError(
        absl::StrCat("architecture ", absl::Utf8SafeCEscape(*architecture),
                     " is not supported; llama (with SmolLM and Mistral), qwen2 and qwen3 are"));
  }
  const Reader reader(file, *architecture);
  KVLINK_RETURN_IF_ERROR(RefuseVariants(file, reader, *architecture));
  ModelConfig config;
  config.architecture = std::string(*architecture);
  KVLINK_ASSIGN_OR_RETURN(config.layers, reader.Required("block_count"));
  KVLINK_ASSIGN_OR_RETURN(config.hidden, reader.Required("embedding_length"));
  KVLINK_ASSIGN_OR_RETURN(config.intermediate, reader.Required("feed_forward_length"));
  KVLINK_ASSIGN_OR_RETURN(config.heads, reader.Required("attention.head_count"));
  KVLINK_ASSIGN_OR_RETURN(config.kv_heads, reader.IntegerOr("attention.head_count_kv", config.heads));
  KVLINK_ASSIGN_OR_RETURN(config.context, reader.Required("context_length"));
  KVLINK_ASSIGN_OR_RETURN(config.rms_eps, reader.NumberOr("attention.layer_norm_rms_epsilon", -1));
  if (config.rms_eps < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("key ", reader.Key("attention.layer_norm_rms_epsilon"), " is missing or negative"));
  }
  const int64_t quotient = config.heads > 0 ? config.hidden / config.heads : 0;
  KVLINK_ASSIGN_OR_RETURN(config.head_dim, reader.IntegerOr("attention.key_length", quotient));
  KVLINK_ASSIGN_OR_RETURN(const int64_t value_dim, reader.IntegerOr("attention.value_length", quotient));
  if (value_dim != config.head_dim) {
    return absl::UnimplementedError(
        absl::StrCat("keys of ", config.head_dim, " and values of ", value_dim, " dimensions are not supported"));
  }
  const SourceTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::InvalidArgumentError("tensor token_embd.weight is missing or no matrix");
  }
  config.vocab = embedding->shape[0];
  config.tied_embeddings = file.FindTensor("output.weight") == nullptr;
  config.qkv_bias = file.FindTensor("blk.0.attn_q.bias") != nullptr;
  config.qk_norm = file.FindTensor("blk.0.attn_q_norm.weight") != nullptr;
  KVLINK_ASSIGN_OR_RETURN(const int64_t window, reader.IntegerOr("attention.sliding_window", 0));
  KVLINK_ASSIGN_OR_RETURN(const int64_t rotary_dim, reader.IntegerOr("rope.dimension_count", config.head_dim));
  if (*architecture == "llama" && rotary_dim != config.head_dim) {
    return absl::UnimplementedError(absl::StrCat("key llama.rope.dimension_count is ", rotary_dim, " with heads of ",
                                                 config.head_dim, ": partial rotation is not supported for llama"));
  }
  // Check sizes before they determine an allocation.
  config.rope.rotary_dim = rotary_dim;
  config.window.assign(config.layers > 0 && config.layers <= 1024 ? config.layers : 0, window);
  KVLINK_RETURN_IF_ERROR(config.Validate());
  KVLINK_ASSIGN_OR_RETURN(config.rope, ReadRope(file, reader, rotary_dim, config.context));
  KVLINK_RETURN_IF_ERROR(ReadTokens(file, &config));
  KVLINK_RETURN_IF_ERROR(config.Validate());
  KVLINK_RETURN_IF_ERROR(kernels::MakeRope(config.rope).status());
  return config;
}

absl::StatusOr<GgufTokenizer> GgufTokenizerOf(const GgufFile& file) {
  GgufTokenizer tokenizer;
  KVLINK_ASSIGN_OR_RETURN(const auto model, file.String("tokenizer.ggml.model"));
  KVLINK_ASSIGN_OR_RETURN(const auto pre, file.String("tokenizer.ggml.pre"));
  KVLINK_ASSIGN_OR_RETURN(const auto tokens, file.Strings("tokenizer.ggml.tokens"));
  KVLINK_ASSIGN_OR_RETURN(const auto scores, file.Numbers("tokenizer.ggml.scores"));
  KVLINK_ASSIGN_OR_RETURN(const auto types, file.Numbers("tokenizer.ggml.token_type"));
  KVLINK_ASSIGN_OR_RETURN(const auto merges, file.Strings("tokenizer.ggml.merges"));
  KVLINK_ASSIGN_OR_RETURN(const auto bos, file.Integer("tokenizer.ggml.bos_token_id"));
  KVLINK_ASSIGN_OR_RETURN(const auto unknown, file.Integer("tokenizer.ggml.unknown_token_id"));
  KVLINK_ASSIGN_OR_RETURN(const auto space, file.Bool("tokenizer.ggml.add_space_prefix"));
  if (!model.has_value() || !tokens.has_value()) {
    return absl::InvalidArgumentError("key tokenizer.ggml.model or tokenizer.ggml.tokens is missing");
  }
  const auto id = [&](const std::optional<int64_t>& value) {
    return value.has_value() && *value >= 0 && *value < static_cast<int64_t>(tokens->size())
               ? static_cast<int32_t>(*value)
               : -1;
  };
  tokenizer.model = std::string(*model);
  tokenizer.pre = std::string(pre.value_or(""));
  tokenizer.tokens = std::vector<std::string>(tokens->begin(), tokens->end());
  if (scores.has_value()) tokenizer.scores.assign(scores->begin(), scores->end());
  if (types.has_value()) {
    tokenizer.token_types.reserve(types->size());
    for (const double type : *types) {
      if (!(type >= 0 && type <= 64)) {
        return absl::InvalidArgumentError(absl::StrCat("key tokenizer.ggml.token_type holds the type ", type));
      }
      tokenizer.token_types.push_back(static_cast<int32_t>(type));
    }
  }
  if (merges.has_value()) tokenizer.merges = std::vector<std::string>(merges->begin(), merges->end());
  tokenizer.bos = id(bos);
  tokenizer.unknown = id(unknown);
  tokenizer.add_space_prefix = space.value_or(true);
  return tokenizer;
}

absl::StatusOr<GgufTokenizer> ReadGgufTokenizer(const std::string& path) {
  KVLINK_ASSIGN_OR_RETURN(const auto mapped, MappedFile::Open(path));
  absl::StatusOr<GgufFile> file = GgufFile::Parse(mapped->bytes());
  if (!file.ok()) return Annotate(file.status(), path);
  absl::StatusOr<GgufTokenizer> tokenizer = GgufTokenizerOf(*file);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  return tokenizer;
}

}  // namespace kvlink::model
