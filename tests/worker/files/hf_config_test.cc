#include "worker/files/hf_config.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvlink::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using RopeType = kernels::RopeConfig::Type;

// A config.json with `rest` (", \"key\": value") added.
std::string Config(const std::string& rest = "", const std::string& architecture = "LlamaForCausalLM") {
  return absl::StrCat(
      "{\"architectures\": [\"", architecture, "\"], \"hidden_size\": 64, \"intermediate_size\": 96,",
      "\"num_hidden_layers\": 4, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 100,",
      "\"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-5, \"bos_token_id\": 1, \"eos_token_id\": 2", rest, "}");
}

TEST(HfConfig, ReadsTheFourArchitectures) {
  const auto llama = ParseHfConfig(Config(", \"sliding_window\": 5"), "");
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_EQ(llama->architecture, "llama");
  EXPECT_EQ(llama->head_dim, 16);
  EXPECT_THAT(llama->window, ElementsAre(0, 0, 0, 0));
  EXPECT_FALSE(llama->qkv_bias || llama->qk_norm || llama->tied_embeddings);
  const auto mistral = ParseHfConfig(Config(", \"sliding_window\": 5, \"head_dim\": null", "MistralForCausalLM"), "");
  ASSERT_TRUE(mistral.ok()) << mistral.status();
  EXPECT_THAT(mistral->window, ElementsAre(5, 5, 5, 5));
  EXPECT_THAT(ParseHfConfig(Config(", \"sliding_window\": null", "MistralForCausalLM"), "")->window,
              ElementsAre(0, 0, 0, 0));
  const auto qwen2 = ParseHfConfig(Config(", \"tie_word_embeddings\": true", "Qwen2ForCausalLM"), "");
  ASSERT_TRUE(qwen2.ok()) << qwen2.status();
  EXPECT_TRUE(qwen2->qkv_bias && qwen2->tied_embeddings);
  const auto qwen3 = ParseHfConfig(Config("", "Qwen3ForCausalLM"), "");
  ASSERT_TRUE(qwen3.ok()) << qwen3.status();
  EXPECT_TRUE(qwen3->qk_norm && !qwen3->qkv_bias);
  EXPECT_EQ(qwen3->head_dim, 128);
}

TEST(HfConfig, MistralWindows) {
  const auto windows = [](const std::string& rest, const char* architecture = "MistralForCausalLM") {
    const auto config = ParseHfConfig(Config(rest, architecture), "");
    EXPECT_TRUE(config.ok()) << config.status();
    return config.ok() ? config->window : std::vector<int64_t>();
  };
  const std::string types =
      ", \"layer_types\": [\"full_attention\", \"sliding_attention\", \"full_attention\", \"sliding_attention\"]";
  EXPECT_THAT(windows(""), ElementsAre(4096, 4096, 4096, 4096));
  EXPECT_THAT(windows(types), ElementsAre(0, 4096, 0, 4096));
  EXPECT_THAT(windows(types + ", \"sliding_window\": 9"), ElementsAre(0, 9, 0, 9));
  EXPECT_THAT(windows(types + ", \"sliding_window\": 9", "MinistralForCausalLM"), ElementsAre(0, 9, 0, 9));
  // mistral reads neither key.
  EXPECT_THAT(windows(", \"use_sliding_window\": false, \"max_window_layers\": 4, \"sliding_window\": 9"),
              ElementsAre(9, 9, 9, 9));
}

TEST(HfConfig, Biases) {
  const auto biases = [](const char* architecture) {
    const auto c = ParseHfConfig(Config(", \"attention_bias\": true, \"mlp_bias\": true", architecture), "");
    EXPECT_TRUE(c.ok()) << c.status();
    return c.ok() ? std::vector<bool>{c->qkv_bias, c->output_bias, c->mlp_bias} : std::vector<bool>();
  };
  EXPECT_THAT(biases("LlamaForCausalLM"), ElementsAre(true, true, true));
  EXPECT_THAT(biases("MistralForCausalLM"), ElementsAre(false, false, false));
  EXPECT_THAT(biases("Qwen2ForCausalLM"), ElementsAre(true, false, false));
  EXPECT_THAT(biases("Qwen3ForCausalLM"), ElementsAre(true, true, false));
}

TEST(HfConfig, TheOldRopeKeyWinsOverTheNewOne) {
  const std::string both =
      ", \"rope_theta\": 7e4, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 9e4}, "
      "\"rope_scaling\": ";
  const auto scaled = ParseHfConfig(Config(both + "{\"type\": \"linear\", \"factor\": 2}"), "");
  ASSERT_TRUE(scaled.ok()) << scaled.status();
  EXPECT_EQ(scaled->rope.type, RopeType::kLinear);
  EXPECT_EQ(scaled->rope.factor, 2);
  EXPECT_EQ(scaled->rope.theta, 7e4);
  for (const char* empty : {"null", "{}"}) {
    const auto plain = ParseHfConfig(Config(both + empty), "");
    ASSERT_TRUE(plain.ok()) << plain.status();
    EXPECT_EQ(plain->rope.type, RopeType::kDefault);
    EXPECT_EQ(plain->rope.theta, 9e4);
  }
}

TEST(HfConfig, AYarnFactorOfNullIsDerived) {
  const std::string yarn = ", \"rope_scaling\": {\"type\": \"yarn\", \"original_max_position_embeddings\": 512";
  EXPECT_EQ(ParseHfConfig(Config(yarn + ", \"factor\": null}"), "")->rope.factor, 4);
  EXPECT_EQ(ParseHfConfig(Config(yarn + "}"), "").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(HfConfig, TakesWhatPythonWritesForInfinity) {
  const auto config = ParseHfConfig(Config(", \"limit\": Infinity, \"low\": [-Infinity, NaN], \"name\": \"Infinity "
                                           "\\\" NaN\", \"hidden_act\": \"swish\""),
                                    "");
  EXPECT_TRUE(config.ok()) << config.status();
}

TEST(HfConfig, QwenWindows) {
  const auto windows = [](const std::string& rest) {
    const auto config = ParseHfConfig(Config(rest, "Qwen2ForCausalLM"), "");
    EXPECT_TRUE(config.ok()) << config.status();
    return config.ok() ? config->window : std::vector<int64_t>();
  };
  EXPECT_THAT(windows(", \"sliding_window\": 7, \"max_window_layers\": 3"), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(windows(", \"use_sliding_window\": true, \"sliding_window\": 7, \"max_window_layers\": 3"),
              ElementsAre(0, 0, 0, 7));
  EXPECT_THAT(windows(", \"use_sliding_window\": true, \"sliding_window\": 7, \"layer_types\": [\"full_attention\", "
                      "\"sliding_attention\", \"full_attention\", \"full_attention\"]"),
              ElementsAre(0, 7, 0, 0));
}

TEST(HfConfig, BothSpellingsOfRope) {
  const auto rope = [](const std::string& rest) {
    const auto config = ParseHfConfig(Config(rest), "");
    EXPECT_TRUE(config.ok()) << config.status();
    return config.ok() ? config->rope : kernels::RopeConfig();
  };
  EXPECT_EQ(rope("").theta, 10000);
  EXPECT_EQ(rope(", \"rope_theta\": 5e5, \"rope_scaling\": null").theta, 5e5);
  const std::string llama3 =
      "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
      "\"original_max_position_embeddings\": 512";
  for (const std::string& spelling :
       {", \"rope_theta\": 7e4, \"rope_scaling\": {\"rope_type\": \"llama3\", " + llama3 + "}",
        ", \"rope_theta\": 7e4, \"rope_scaling\": {\"type\": \"llama3\", " + llama3 + "}",
        ", \"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 7e4, " + llama3 + "}"}) {
    const kernels::RopeConfig r = rope(spelling);
    EXPECT_EQ(r.type, RopeType::kLlama3) << spelling;
    EXPECT_EQ(r.theta, 7e4);
    EXPECT_EQ(r.factor, 8);
    EXPECT_EQ(r.original_context, 512);
  }
  EXPECT_EQ(rope(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}").type, RopeType::kLinear);
  const kernels::RopeConfig yarn = rope(
      ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"truncate\": false, \"mscale\": 1, "
      "\"mscale_all_dim\": 0.5}");
  EXPECT_EQ(yarn.type, RopeType::kYarn);
  EXPECT_EQ(yarn.original_context, 2048);
  EXPECT_FALSE(yarn.truncate);
  EXPECT_EQ(yarn.mscale_all_dim, 0.5);
}

TEST(HfConfig, EndOfSequenceIsASet) {
  EXPECT_THAT(ParseHfConfig(Config(), "")->end_of_sequence, ElementsAre(2));
  EXPECT_THAT(ParseHfConfig(Config(), "{\"eos_token_id\": [9, 2, 7]}")->end_of_sequence, ElementsAre(2, 7, 9));
  EXPECT_THAT(ParseHfConfig(Config(), "{\"eos_token_id\": null}")->end_of_sequence, ElementsAre(2));
  EXPECT_FALSE(ParseHfConfig(Config(), "{\"eos_token_id\": [100]}").ok());
  EXPECT_FALSE(ParseHfConfig(Config(), "{\"eos_token_id\": \"</s>\"}").ok());
}

TEST(HfConfig, RefusesByName) {
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnknown = absl::StatusCode::kUnimplemented;
  const struct {
    std::string config;
    absl::StatusCode code;
    const char* message;
  } cases[] = {
      {"[]", kBad, "not a JSON object"},
      {"{\"architectures\": [\"Llama", kBad, "not a JSON object"},
      {"{}", kBad, "architectures"},
      {Config("", "GemmaForCausalLM"), kUnknown, "GemmaForCausalLM"},
      {Config(", \"quantization_config\": {\"bits\": 4}"), kUnknown, "quantization_config"},
      {Config(", \"hidden_act\": \"gelu\""), kUnknown, "hidden_act"},
      {Config(", \"partial_rotary_factor\": 0.5"), kUnknown, "partial_rotary_factor"},
      {Config(", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}"), kUnknown, "dynamic"},
      {Config(", \"rope_scaling\": {\"rope_type\": \"longrope\"}"), kUnknown, "longrope"},
      {Config(", \"rope_scaling\": {\"type\": \"linear\"}"), kBad, "factor"},
      {Config(", \"rope_scaling\": 3"), kBad, "rope_scaling"},
      {Config(", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 2}"), kBad, "low_freq_factor"},
      {Config(", \"rope_parameters\": {\"full_attention\": {}}"), kUnknown, "rope_parameters"},
      {Config(", \"head_dim\": 15"), kBad, "head_dim"},
      {Config(", \"head_dim\": 1000000"), kBad, "head_dim"},
      {Config(", \"head_dim\": -8"), kBad, "head_dim"},
      {Config(", \"vocab_size\": 99999999999"), kBad, "vocab"},
      {Config(", \"num_hidden_layers\": 100000000"), kBad, "layers"},
      {Config(", \"num_hidden_layers\": 2.5"), kBad, "num_hidden_layers"},
      {Config(", \"num_hidden_layers\": 18446744073709551615"), kBad, "num_hidden_layers"},
      {Config(", \"num_attention_heads\": 0, \"head_dim\": null"), kBad, "heads"},
      {Config(", \"num_key_value_heads\": 3"), kBad, "kv_heads"},
      {Config(", \"rms_norm_eps\": \"x\""), kBad, "rms_norm_eps"},
      {Config(", \"rms_norm_eps\": Infinity"), kBad, "rms_norm_eps"},
      {Config(", \"rope_theta\": NaN"), kBad, "rope_theta"},
      {Config(", \"eos_token_id\": 100"), kBad, "eos_token_id"},
      {Config(", \"sliding_window\": -1", "MistralForCausalLM"), kBad, "window"},
      {Config(", \"layer_types\": [\"linear_attention\", \"\", \"\", \"\"]", "Qwen3ForCausalLM"), kUnknown,
       "layer_types"},
      {Config(", \"layer_types\": [1]", "Qwen3ForCausalLM"), kBad, "layer_types"},
  };
  for (const auto& c : cases) {
    const absl::Status status = ParseHfConfig(c.config, "").status();
    EXPECT_EQ(status.code(), c.code) << c.message << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
  }
}

TEST(HfConfig, CanonicalTellsConfigurationsApart) {
  const auto text = [](const std::string& rest) { return ParseHfConfig(Config(rest), "")->Canonical(); };
  EXPECT_EQ(text(""), text(", \"eos_token_id\": 5, \"max_position_embeddings\": 9"));
  EXPECT_NE(text(""), text(", \"rope_theta\": 10001"));
  EXPECT_NE(text(""), text(", \"rms_norm_eps\": 1.0000001e-5"));
  EXPECT_NE(text(""), text(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}"));
  EXPECT_NE(text(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 3}"),
            text(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}"));
}

TEST(HfChatTemplate, StringOrNamedList) {
  EXPECT_EQ(*ParseHfChatTemplate("{\"chat_template\": \"x\"}"), "x");
  EXPECT_EQ(*ParseHfChatTemplate("{}"), "");
  EXPECT_EQ(*ParseHfChatTemplate("{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"}, "
                                 "{\"name\": \"default\", \"template\": \"d\"}]}"),
            "d");
  EXPECT_FALSE(ParseHfChatTemplate("{\"chat_template\": [3]}").ok());
  EXPECT_FALSE(ParseHfChatTemplate("{\"chat_template\": {}}").ok());
}

TEST(SafetensorsIndex, NamesArePlain) {
  const auto index = ParseSafetensorsIndex("{\"weight_map\": {\"b\": \"2.safetensors\", \"a\": \"1.safetensors\"}}");
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->size(), 2u);
  EXPECT_FALSE(ParseSafetensorsIndex("{\"weight_map\": {\"a\": \"../1.safetensors\"}}").ok());
  EXPECT_FALSE(ParseSafetensorsIndex("{\"weight_map\": {\"a\": \"/etc/passwd\"}}").ok());
  EXPECT_FALSE(ParseSafetensorsIndex("{\"weight_map\": {\"a\": \"config.json\"}}").ok());
  EXPECT_FALSE(ParseSafetensorsIndex("{\"weight_map\": {\"a\": 1}}").ok());
  EXPECT_FALSE(ParseSafetensorsIndex("{}").ok());
}

}  // namespace
}  // namespace kvlink::model
