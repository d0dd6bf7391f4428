#include "worker/files/weights.h"

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests_source_dir.h"

namespace kvlink::model {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
namespace fs = std::filesystem;

const std::string kModels = KVLINK_SOURCE_DIR "/tests/golden/models/";

std::unique_ptr<Weights> Open(const std::string& name) {
  auto weights = OpenWeights(kModels + name);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return weights.ok() ? *std::move(weights) : nullptr;
}

std::vector<float> ReadAll(const Weights& weights, const std::string& name, int64_t rows, int64_t columns) {
  std::vector<float> values(rows * columns);
  const absl::Status status = weights.Read(name, 0, rows, absl::MakeSpan(values));
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

// The same model from a directory and from a GGUF with permuted rows reads the same, bit for bit.
void ExpectSameWeights(const Weights& a, const Weights& b) {
  const ModelConfig& c = a.config();
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::vector<std::tuple<std::string, int64_t, int64_t>> tensors = {{"model.embed_tokens.weight", c.vocab, c.hidden},
                                                                    {"model.norm.weight", c.hidden, 1}};
  if (!c.tied_embeddings) tensors.emplace_back("lm_head.weight", c.vocab, c.hidden);
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = absl::StrCat("model.layers.", l, ".");
    tensors.insert(tensors.end(), {{layer + "input_layernorm.weight", c.hidden, 1},
                                   {layer + "post_attention_layernorm.weight", c.hidden, 1},
                                   {layer + "self_attn.q_proj.weight", q, c.hidden},
                                   {layer + "self_attn.k_proj.weight", kv, c.hidden},
                                   {layer + "self_attn.v_proj.weight", kv, c.hidden},
                                   {layer + "self_attn.o_proj.weight", c.hidden, q},
                                   {layer + "mlp.gate_proj.weight", c.intermediate, c.hidden},
                                   {layer + "mlp.up_proj.weight", c.intermediate, c.hidden},
                                   {layer + "mlp.down_proj.weight", c.hidden, c.intermediate}});
    if (!c.qkv_bias) continue;
    tensors.insert(tensors.end(), {{layer + "self_attn.q_proj.bias", q, 1},
                                   {layer + "self_attn.k_proj.bias", kv, 1},
                                   {layer + "self_attn.v_proj.bias", kv, 1}});
  }
  for (const auto& [name, rows, columns] : tensors) {
    EXPECT_TRUE(a.Has(name) && b.Has(name)) << name;
    EXPECT_EQ(ReadAll(a, name, rows, columns), ReadAll(b, name, rows, columns)) << name;
  }
}

TEST(Weights, GgufOfLlamaUndoesTheRowPermutation) {
  const auto directory = Open("llama-llama3"), gguf = Open("llama-llama3.gguf");
  ASSERT_TRUE(directory && gguf);
  ExpectSameWeights(*directory, *gguf);
  EXPECT_EQ(gguf->config().rope.frequency_divisors.size(), 8u);
  EXPECT_THAT(gguf->config().end_of_sequence, ElementsAre(2, 255));
}

TEST(Weights, GgufOfQwenIsNotPermuted) {
  const auto directory = Open("qwen2-window"), gguf = Open("qwen2-plain.gguf");
  ASSERT_TRUE(directory && gguf);
  ExpectSameWeights(*directory, *gguf);
  EXPECT_THAT(directory->config().window, ElementsAre(0, 48, 48));
  EXPECT_THAT(gguf->config().window, Each(0));
}

TEST(Weights, ReadsRanges) {
  const auto weights = Open("llama-llama3.gguf");
  ASSERT_TRUE(weights);
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  const std::vector<float> all = ReadAll(*weights, name, 64, 64);
  std::vector<float> part(5 * 64);
  ASSERT_TRUE(weights->Read(name, 13, 5, absl::MakeSpan(part)).ok());
  EXPECT_EQ(part, std::vector<float>(all.begin() + 13 * 64, all.begin() + 18 * 64));
  EXPECT_EQ(weights->Read(name, 62, 5, absl::MakeSpan(part)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(weights->Read(name, -1, 5, absl::MakeSpan(part)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(weights->Read(name, 0, 4, absl::MakeSpan(part)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(weights->Read("model.layers.9.self_attn.q_proj.weight", 0, 5, absl::MakeSpan(part)).code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(weights->Has("model.layers.1.self_attn.q_proj.bias"));
  EXPECT_FALSE(weights->Has("blk.1.attn_q.weight"));
}

TEST(Weights, ShardsAreOneModel) {
  const auto weights = Open("qwen3-sharded");
  ASSERT_TRUE(weights);
  EXPECT_EQ(weights->files().size(), 4u);
  EXPECT_THAT(weights->files().back(), EndsWith("config.json"));
  const auto& tensors = weights->tensors();
  EXPECT_EQ(tensors.size(), 25u);
  for (size_t i = 1; i < tensors.size(); ++i) EXPECT_LT(tensors[i - 1].name, tensors[i].name);
}

TEST(Weights, TiedModelsHaveNoOutputMatrix) {
  const auto weights = Open("llama-tied-f16");
  ASSERT_TRUE(weights);
  EXPECT_TRUE(weights->config().tied_embeddings);
  EXPECT_FALSE(weights->Has("lm_head.weight"));
}

// A copy of a model's directory that a test may damage.
class Damaged {
 public:
  explicit Damaged(const std::string& name) {
    path_ = testing::TempDir() + "weights_test_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(path_);
    fs::copy(kModels + name, path_);
  }
  ~Damaged() { fs::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(File(name), std::ios::binary) << text;
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(File(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Replace(const std::string& name, const std::string& from, const std::string& to) const {
    std::string text = Read(name);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos);
    Write(name, text.replace(at, from.size(), to));
  }

 private:
  std::string path_;
};

void ExpectRefused(const std::string& path, absl::StatusCode code, const std::string& message) {
  const auto weights = OpenWeights(path);
  EXPECT_EQ(weights.status().code(), code) << weights.status();
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr(message));
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr(path));
}

TEST(Weights, MissingPartsAreNamed) {
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  ExpectRefused("/nowhere/model.gguf", absl::StatusCode::kNotFound, "no such model");
  const Damaged model("qwen3-sharded");
  fs::remove(model.File("model-00002-of-00003.safetensors"));
  ExpectRefused(model.path(), absl::StatusCode::kNotFound, "model-00002-of-00003.safetensors");
  fs::remove(model.File("model.safetensors.index.json"));
  ExpectRefused(model.path(), kBad, "2 .safetensors files");
  fs::remove(model.File("config.json"));
  ExpectRefused(model.path(), kBad, "0 .gguf files");
}

// A message starts with the path also where the path is short enough to occur in it by chance, and never with a colon.
TEST(Weights, MessagesStartWithThePath) {
  const Damaged model("llama-yarn");
  model.Replace("config.json", "\"intermediate_size\": 96", "\"intermediate_size\": 95");
  const fs::path before = fs::current_path();
  fs::current_path(model.path());
  const absl::Status status = OpenWeights(".").status();
  fs::current_path(before);
  EXPECT_THAT(std::string(status.message()), StartsWith(".: tensor model.layers.0.mlp"));
  EXPECT_THAT(std::string(OpenWeights("").status().message()), HasSubstr("the path of the model is empty"));
  EXPECT_THAT(std::string(OpenWeights("").status().message()), Not(StartsWith(":")));
}

TEST(Weights, DamagedFilesAreNamed) {
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  const Damaged model("llama-yarn");
  const std::string weights = model.Read("model.safetensors");
  model.Write("model.safetensors", weights.substr(0, weights.size() - 1));
  ExpectRefused(model.path(), kBad, "model.safetensors");
  model.Write("model.safetensors", "");
  ExpectRefused(model.path(), kBad, "is empty");
  model.Write("model.safetensors", weights);
  model.Replace("config.json", "\"intermediate_size\": 96", "\"intermediate_size\": 95");
  ExpectRefused(model.path(), kBad, "[96, 64], the configuration says [95, 64]");
  model.Replace("config.json", "\"intermediate_size\": 95", "\"intermediate_size\": 96");
  model.Replace("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
  ExpectRefused(model.path(), kBad, "model.layers.2.input_layernorm.weight is missing");
}

TEST(Weights, IndexAndShardsMustAgree) {
  const Damaged model("qwen3-sharded");
  model.Replace("model.safetensors.index.json", "lm_head.weight", "lm_head.weights");
  ExpectRefused(model.path(), absl::StatusCode::kInvalidArgument, "lm_head.weights is not in");
}

TEST(Weights, ASingleFileIsTakenBeforeAnIndex) {
  const Damaged model("llama-yarn");
  model.Write("model.safetensors.index.json", "{\"weight_map\": {\"model.norm.weight\": \"other.safetensors\"}}");
  const auto weights = OpenWeights(model.path());
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_THAT((*weights)->files(), ElementsAre(model.File("model.safetensors"), model.File("config.json")));
}

TEST(Weights, AnOutputMatrixOfItsOwnIsUsedAlthoughTied) {
  EXPECT_FALSE(Open("llama-untied")->config().tied_embeddings);
  // A copy of the embedding is not one of its own.
  const Damaged model("llama-untied");
  const auto weights = OpenWeights(model.path());
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto bytes = [&](absl::string_view name) -> absl::Span<const std::byte> {
    for (const SourceTensor& tensor : (*weights)->tensors()) {
      if (tensor.name == name) return tensor.bytes;
    }
    return {};
  };
  const absl::string_view embedding(reinterpret_cast<const char*>(bytes("model.embed_tokens.weight").data()),
                                    bytes("model.embed_tokens.weight").size());
  const absl::string_view head(reinterpret_cast<const char*>(bytes("lm_head.weight").data()),
                               bytes("lm_head.weight").size());
  std::string file = model.Read("model.safetensors");
  const size_t at = file.find(std::string(head));
  ASSERT_NE(at, std::string::npos);
  model.Write("copied", file.replace(at, head.size(), std::string(embedding)));
  fs::rename(model.File("copied"), model.File("model.safetensors"));
  EXPECT_TRUE((*OpenWeights(model.path()))->config().tied_embeddings);
}

TEST(Weights, NamesMayLackTheirPrefix) {
  const Damaged model("llama-tied-f16");
  const auto whole = OpenWeights(model.path());
  std::string file = model.Read("model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof(header));
  // The header keeps its length: JSON may end in spaces.
  std::string json = absl::StrReplaceAll(file.substr(8, header), {{"\"model.", "\""}});
  json.resize(header, ' ');
  model.Write("bare", file.replace(8, header, json));
  fs::rename(model.File("bare"), model.File("model.safetensors"));
  const auto bare = OpenWeights(model.path());
  ASSERT_TRUE(bare.ok()) << bare.status();
  ExpectSameWeights(**whole, **bare);
}

TEST(Weights, ADirectoryMayHoldOneGguf) {
  const std::string path = testing::TempDir() + "weights_test_gguf";
  fs::remove_all(path);
  fs::create_directory(path);
  fs::copy(kModels + "llama-yarn.gguf", path + "/a.gguf");
  EXPECT_TRUE(OpenWeights(path).ok());
  fs::copy(kModels + "llama-yarn.gguf", path + "/b.gguf");
  ExpectRefused(path, absl::StatusCode::kInvalidArgument, "2 .gguf files");
  fs::remove_all(path);
}

TEST(Weights, ChatTemplateOfADirectory) {
  const Damaged model("llama-yarn");
  EXPECT_EQ((*OpenWeights(model.path()))->chat_template(), "");
  model.Write("tokenizer_config.json", "{\"chat_template\": \"from the configuration\"}");
  EXPECT_EQ((*OpenWeights(model.path()))->chat_template(), "from the configuration");
  model.Write("chat_template.jinja", "from its own file");
  EXPECT_EQ((*OpenWeights(model.path()))->chat_template(), "from its own file");
}

}  // namespace
}  // namespace kvlink::model
