#include "worker/files/gguf.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/files/gguf_builder.h"

namespace kvlink::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Status ParseStatus(const std::string& bytes) { return GgufFile::Parse(AsBytes(bytes)).status(); }

TEST(Gguf, ReadsMetadataAndTensors) {
  GgufBuilder builder;
  builder.U32("a.count", 7)
      .F32("a.share", 0.5f)
      .Str("a.name", "x")
      .Strings("a.list", {"p", "", "q"})
      .Ints("a.ids", {3, -1});
  builder.Key("a.flag", GgufBuilder::kBool).Raw<uint8_t>(1);
  builder.Tensor("w", {8, 4}, 0, 0);
  const std::string bytes = builder.Bytes(128);
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->Integer("a.count"), 7);
  EXPECT_EQ(*file->Number("a.share"), 0.5);
  EXPECT_EQ(*file->Number("a.count"), 7.0);
  EXPECT_EQ(*file->String("a.name"), absl::string_view("x"));
  EXPECT_EQ(*file->Bool("a.flag"), true);
  EXPECT_THAT(**file->Strings("a.list"), ElementsAre("p", "", "q"));
  EXPECT_THAT(**file->Numbers("a.ids"), ElementsAre(3, -1));
  EXPECT_EQ(*file->Integer("missing"), std::nullopt);
  EXPECT_EQ(file->Integer("a.name").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->String("a.list").status().code(), absl::StatusCode::kInvalidArgument);
  const SourceTensor* tensor = file->FindTensor("w");
  ASSERT_NE(tensor, nullptr);
  EXPECT_THAT(tensor->shape, ElementsAre(4, 8));
  EXPECT_EQ(tensor->bytes.size(), 128u);
}

// Every prefix of a file is refused or is whole; none is read beyond its end (the sanitizers watch).
TEST(Gguf, EveryTruncationIsRefused) {
  GgufBuilder builder;
  builder.U32("a", 7).Strings("b", {"p", "q"}).Ints("c", {1, 2, 3}).Tensor("w", {8, 4}, 0, 0);
  const std::string bytes = builder.Bytes(128);
  ASSERT_TRUE(ParseStatus(bytes).ok());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string prefix = bytes.substr(0, size);
    EXPECT_EQ(ParseStatus(prefix).code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

struct Hostile {
  const char* name;
  std::string bytes;
  absl::StatusCode code;
  const char* message;
};

std::vector<Hostile> HostileFiles() {
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnknown = absl::StatusCode::kUnimplemented;
  const auto with_tensor = [](const std::vector<uint64_t>& sizes, uint32_t type, uint64_t offset) {
    return GgufBuilder().Tensor("w", sizes, type, offset).Bytes(256);
  };
  std::string big_endian = GgufBuilder().Bytes(0);
  big_endian.replace(4, 4, std::string("\0\0\0\3", 4));
  return {
      {"not gguf", "GGML and more bytes than a header", kBad, "is not a GGUF"},
      {"version 2", GgufBuilder().Bytes(0, 0, 0, 2), kUnknown, "version 2"},
      {"big-endian", big_endian, kUnknown, "big-endian"},
      {"tensor count", GgufBuilder().Bytes(0, UINT64_MAX, 0), kBad, "tensors"},
      {"key count", GgufBuilder().Bytes(0, 0, UINT64_MAX), kBad, "keys"},
      {"more keys than there are", GgufBuilder().U32("a", 1).Bytes(0, 0, 9), kBad, "byte"},
      {"string length", GgufBuilder().Key("a", GgufBuilder::kString).Raw<uint64_t>(UINT64_MAX).Bytes(0), kBad, "left"},
      {"array length", GgufBuilder().Key("a", GgufBuilder::kArray).Raw<uint32_t>(4).Raw<uint64_t>(1ull << 62).Bytes(0),
       kBad, "more than the file holds"},
      {"string array length",
       GgufBuilder().Key("a", GgufBuilder::kArray).Raw<uint32_t>(8).Raw<uint64_t>(1ull << 62).Bytes(0), kBad, "left"},
      {"nested array", GgufBuilder().Key("a", GgufBuilder::kArray).Raw<uint32_t>(9).Raw<uint64_t>(1).Bytes(64), kBad,
       "array of arrays"},
      {"unknown value type", GgufBuilder().Key("a", static_cast<GgufBuilder::Type>(77)).Bytes(64), kBad,
       "unknown type 77"},
      {"duplicate key", GgufBuilder().U32("a", 1).U32("a", 2).Bytes(0), kBad, "twice"},
      {"empty key", GgufBuilder().U32("", 1).Bytes(0), kBad, "empty"},
      {"key with a newline", GgufBuilder().U32("a\nb", 1).Bytes(0), kBad, "plain UTF-8"},
      {"invalid UTF-8 key", GgufBuilder().U32("a\xff", 1).Bytes(0), kBad, "plain UTF-8"},
      {"invalid UTF-8 value", GgufBuilder().Str("a", "\xc3").Bytes(0), kBad, "UTF-8"},
      {"alignment", GgufBuilder().U32("general.alignment", 24).Bytes(0), kBad, "power of two"},
      {"alignment 0", GgufBuilder().U32("general.alignment", 0).Bytes(0), kBad, "power of two"},
      {"rank 0", with_tensor({}, 0, 0), kBad, "rank 0"},
      {"rank 5", with_tensor({1, 1, 1, 1, 1}, 0, 0), kBad, "rank 5"},
      {"size 0", with_tensor({0, 4}, 0, 0), kBad, "implausible"},
      {"size overflow", with_tensor({1ull << 40, 1ull << 40}, 0, 0), kBad, "implausible"},
      {"unaligned offset", with_tensor({8}, 0, 4), kBad, "aligned"},
      {"offset beyond", with_tensor({8}, 0, 1ull << 60), kBad, "truncated"},
      {"end beyond", with_tensor({65}, 0, 0), kBad, "truncated"},
      {"offset overflow", with_tensor({8}, 0, UINT64_MAX - 31), kBad, "truncated"},
      {"partial block", with_tensor({33}, 2, 0), kBad, "not a multiple"},
      {"type we do not read", with_tensor({256}, 22, 0), kUnknown, "IQ2_S"},
      {"type nobody knows", with_tensor({256}, 4000, 0), kUnknown, "4000"},
      {"duplicate tensor", GgufBuilder().Tensor("w", {8}, 0, 0).Tensor("w", {8}, 0, 32).Bytes(256), kBad, "twice"},
      {"overlap", GgufBuilder().Tensor("v", {16}, 0, 32).Tensor("w", {16}, 0, 0).Bytes(256), kBad, "overlaps"},
  };
}

TEST(Gguf, HostileFilesAreRefusedInOneLine) {
  for (const Hostile& hostile : HostileFiles()) {
    const absl::Status status = ParseStatus(hostile.bytes);
    EXPECT_EQ(status.code(), hostile.code) << hostile.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(hostile.message)) << hostile.name;
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << hostile.name;
  }
}

// A llama of two layers, enough for the configuration.
GgufBuilder Llama(const std::string& architecture = "llama") {
  GgufBuilder builder;
  const std::string a = architecture + ".";
  builder.Str("general.architecture", architecture);
  builder.U32(a + "block_count", 2).U32(a + "context_length", 1024).U32(a + "embedding_length", 32);
  builder.U32(a + "feed_forward_length", 48).U32(a + "attention.head_count", 4).U32(a + "attention.head_count_kv", 2);
  builder.F32(a + "attention.layer_norm_rms_epsilon", 1e-5f).F32(a + "rope.freq_base", 50000);
  builder.Strings("tokenizer.ggml.tokens", {"<|endoftext|>", "<s>", "</s>", "a", "<|im_end|>", "<|eot_id|>", "b", "c"});
  builder.Ints("tokenizer.ggml.token_type", {3, 3, 3, 1, 3, 1, 1, 1});
  builder.Str("tokenizer.ggml.model", "gpt2").U32("tokenizer.ggml.bos_token_id", 1);
  builder.Zeros("token_embd.weight", {32, 8});
  return builder;
}

absl::StatusOr<ModelConfig> ConfigOf(const GgufBuilder& builder) {
  const std::string bytes = builder.Bytes();
  auto file = GgufFile::Parse(AsBytes(bytes));
  if (!file.ok()) return file.status();
  return GgufModelConfig(*file);
}

TEST(GgufConfig, ReadsLlama) {
  const auto config = ConfigOf(Llama().U32("tokenizer.ggml.eos_token_id", 7).U32("tokenizer.ggml.eot_token_id", 6));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->vocab, 8);
  EXPECT_EQ(config->rope.theta, 50000);
  EXPECT_EQ(config->rope.rotary_dim, 8);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_EQ(config->bos, 1);
  // Declared ids and known end tokens of control type; <|eot_id|> is an ordinary token here.
  EXPECT_THAT(config->end_of_sequence, ElementsAre(0, 2, 4, 6, 7));
  EXPECT_FALSE(ConfigOf(Llama().Zeros("output.weight", {32, 8}))->tied_embeddings);
}

TEST(GgufConfig, ReadsRopeScaling) {
  const auto yarn = ConfigOf(Llama("qwen2")
                                 .Str("qwen2.rope.scaling.type", "yarn")
                                 .F32("qwen2.rope.scaling.factor", 4)
                                 .U32("qwen2.rope.scaling.original_context_length", 256));
  ASSERT_TRUE(yarn.ok()) << yarn.status();
  EXPECT_EQ(yarn->rope.type, kernels::RopeConfig::Type::kYarn);
  EXPECT_EQ(yarn->rope.factor, 4);
  EXPECT_EQ(yarn->rope.original_context, 256);
  // llama.cpp reads rope.scaling.attn_factor; of the other spelling a reader here and there takes another meaning.
  const auto other = [](float factor) {
    return ConfigOf(Llama()
                        .Str("llama.rope.scaling.type", "yarn")
                        .F32("llama.rope.scaling.factor", 4)
                        .U32("llama.rope.scaling.original_context_length", 256)
                        .F32("llama.rope.scaling.yarn_attn_factor", factor))
        .status();
  };
  EXPECT_TRUE(other(1).ok()) << other(1);
  EXPECT_EQ(other(0.5f).code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(other(0.5f).message()), HasSubstr("llama.rope.scaling.yarn_attn_factor"));
  const auto linear = ConfigOf(Llama().F32("llama.rope.scale_linear", 2));
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->rope.type, kernels::RopeConfig::Type::kLinear);
  EXPECT_EQ(linear->rope.factor, 2);
  EXPECT_EQ(ConfigOf(Llama().Str("llama.rope.scaling.type", "none"))->rope.type, kernels::RopeConfig::Type::kDefault);
  EXPECT_EQ(ConfigOf(Llama().Str("llama.rope.scaling.type", "longrope")).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ConfigOf(Llama().Zeros("rope_factors_long.weight", {4})).status().code(), absl::StatusCode::kUnimplemented);
  // Divisors of zero would make infinite frequencies; a wrong count is no rope of this model.
  EXPECT_THAT(std::string(ConfigOf(Llama().Zeros("rope_freqs.weight", {4})).status().message()), HasSubstr("divisor"));
  EXPECT_THAT(std::string(ConfigOf(Llama().Zeros("rope_freqs.weight", {3})).status().message()), HasSubstr("4 values"));
}

TEST(GgufConfig, RefusesWhatWeDoNotCompute) {
  const std::pair<const char*, GgufBuilder> cases[] = {
      {"architecture gemma", Llama("gemma")},
      {"llama.expert_count", Llama().U32("llama.expert_count", 8)},
      {"llama.logit_scale", Llama().F32("llama.logit_scale", 2)},
      {"split GGUF", Llama().U32("split.count", 3)},
      {"blk.0.attn_output.bias", Llama().Zeros("blk.0.attn_output.bias", {32})},
      {"llama.rope.dimension_count", Llama().U32("llama.rope.dimension_count", 4)},
      {"keys of 16 and values of 8", Llama().U32("llama.attention.key_length", 16)},
  };
  for (const auto& [message, builder] : cases) {
    const absl::Status status = ConfigOf(builder).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(GgufConfig, RefusesShapesThatCannotBe) {
  const auto with = [](uint32_t layers, uint32_t heads) {
    GgufBuilder builder;
    builder.Str("general.architecture", "llama");
    builder.U32("llama.block_count", layers).U32("llama.context_length", 1024).U32("llama.embedding_length", 32);
    builder.U32("llama.feed_forward_length", 48).U32("llama.attention.head_count", heads);
    builder.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f).Zeros("token_embd.weight", {32, 8});
    return ConfigOf(builder).status();
  };
  EXPECT_TRUE(with(2, 4).ok());
  EXPECT_THAT(std::string(with(4000000000u, 4).message()), HasSubstr("layers"));
  EXPECT_THAT(std::string(with(0, 4).message()), HasSubstr("layers"));
  EXPECT_THAT(std::string(with(2, 0).message()), HasSubstr("heads"));
  EXPECT_EQ(ConfigOf(GgufBuilder()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(GgufTokenizer, ReadsTheDescription) {
  const std::string bytes =
      Llama().Str("tokenizer.ggml.pre", "smollm").Strings("tokenizer.ggml.merges", {"a b"}).Bytes();
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokenizer = GgufTokenizerOf(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->model, "gpt2");
  EXPECT_EQ(tokenizer->pre, "smollm");
  EXPECT_EQ(tokenizer->tokens.size(), 8u);
  EXPECT_EQ(tokenizer->tokens[3], "a");
  EXPECT_THAT(tokenizer->token_types, ElementsAre(3, 3, 3, 1, 3, 1, 1, 1));
  EXPECT_THAT(tokenizer->merges, ElementsAre("a b"));
  EXPECT_EQ(tokenizer->bos, 1);
  EXPECT_EQ(tokenizer->unknown, -1);
  EXPECT_TRUE(tokenizer->add_space_prefix);
}

}  // namespace
}  // namespace kvlink::model
