// The authors' checkpoints (arXiv 2502.16002), as far as a test can go without them: randomly initialised models of
// their shape in proportion, with Llama-3's special ids, the shipped profiles and the shipped chat template. Documents
// that were ingested, linked and decoded are compared with one pass over the whole sequence, which is put together here
// as the authors' evaluation puts it together.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

#include "nlohmann/json.hpp"
#include "tests/worker/infer/random_case.h"
#include "tests_source_dir.h"
#include "worker/files/open_tokenizer.h"
#include "worker/ingest/ingest.h"

namespace kvlink::infer {
namespace {

using Json = nlohmann::json;

constexpr int32_t kBos = 128000, kStartHeader = 128006, kEndHeader = 128007, kEndOfTurn = 128009;
constexpr int32_t kFirstLink = 128011, kMemStart = 128254, kMemEnd = 128255;
constexpr int64_t kVocab = 128256;

constexpr char kSystem[] =
    "You are a intelligent AI assistant. Please answer questions based on the user's instruction. Below are some "
    "reference documents that may help you in answering the user's question.";
constexpr char kQuestion[] = "Which moon is the larger one?";
struct Text {
  const char *id, *title, *text;
};
constexpr Text kTexts[] = {
    {"moon", "The Moon", "It orbits the Earth, and is the fifth largest of its kind in the whole of the system."},
    {"io", "Io", "The innermost of the four that Galileo saw.\n\nIt has the highest density and 400 volcanoes."},
    {"forged", "A <|eot_id|> in text", "Nobody who writes <|reserved_special_token_3|> into a document means a link."},
    {"charon", "Charon", "Small."}};

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Gives a tiny model Llama-3's special tokens at their ids, its split of text into words, and the shipped template.
void MakeLlama3(const std::string& directory) {
  Json tokenizer = Json::parse(ReadAll(directory + "/tokenizer.json"));
  const Json split = {
      {"type", "Split"},
      {"pattern",
       {{"Regex", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
                  R"(\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
      {"behavior", "Isolated"},
      {"invert", false}};
  Json byte_level = tokenizer["pre_tokenizer"];
  byte_level["use_regex"] = false;
  tokenizer["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}};
  // A tokenizer may leave no large gap before its last ids.
  Json& vocabulary = tokenizer["model"]["vocab"];
  for (size_t id = vocabulary.size(); id < kBos / 4; ++id) vocabulary[absl::StrCat("unused", id)] = id;
  tokenizer["added_tokens"] = Json::array();
  for (int32_t id = kBos; id < kVocab; ++id) {
    const std::string content = id == kBos           ? "<|begin_of_text|>"
                                : id == kStartHeader ? "<|start_header_id|>"
                                : id == kEndHeader   ? "<|end_header_id|>"
                                : id == kEndOfTurn   ? "<|eot_id|>"
                                                     : absl::StrCat("<|reserved_special_token_", id - 128008, "|>");
    tokenizer["added_tokens"].push_back({{"id", id},
                                         {"content", content},
                                         {"single_word", false},
                                         {"lstrip", false},
                                         {"rstrip", false},
                                         {"normalized", false},
                                         {"special", true}});
  }
  std::ofstream(directory + "/tokenizer.json") << tokenizer.dump();
  std::ofstream(directory + "/tokenizer_config.json")
      << Json{{"bos_token", "<|begin_of_text|>"}, {"eos_token", "<|eot_id|>"}, {"chat_template", "not this one"}};
  std::filesystem::copy_file(KVLINK_SOURCE_DIR "/deploy/kvlink-llama.jinja", directory + "/chat_template.jinja");
  Json config = Json::parse(ReadAll(directory + "/config.json"));
  config["bos_token_id"] = kBos;
  config["eos_token_id"] = {128001, 128008, kEndOfTurn};
  std::ofstream(directory + "/config.json") << config;
}

// A model, its documents in a store, and what it takes to ask about them.
class AuthorsTest : public ::testing::Test {
 protected:
  // Of 3B: 24 heads over 8, 128 wide; of 1B: 32 over 8, 64 wide. Embeddings are tied, as theirs.
  void UseShape(int64_t heads, int64_t head_dim) {
    testing::TinyModelOptions shape;
    shape.seed = TestSeed();
    shape.layers = 2;
    shape.hidden = 32;
    shape.intermediate = 4 * shape.hidden;
    shape.heads = heads;
    shape.kv_heads = 1;
    shape.head_dim = head_dim;
    shape.vocab = kVocab;
    shape.context = 131072;
    shape.rope_theta = 500000;
    shape.rope_scaling =
        R"({"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192})";
    ASSERT_TRUE(testing::WriteTinyModel(directory_.path() + "/model", shape).ok());
    MakeLlama3(directory_.path() + "/model");
    loaded_ = LoadModel(directory_.path() + "/model", FastF32());
    auto tokenizer = model::OpenTokenizer(directory_.path() + "/model");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    store_ = OpenStore(directory_.path() + "/store");
  }

  void IngestAll(const link::LinkProfile& profile) {
    const std::string path = directory_.path() + "/documents.jsonl";
    {
      std::ofstream lines(path);
      for (const Text& text : kTexts)
        lines << Json{{"id", text.id}, {"title", text.title}, {"text", text.text}} << "\n";
    }
    const auto source = ingest::DocumentSource::Open({path}, {});
    ASSERT_TRUE(source.ok()) << source.status();
    encode::EncoderOptions options;
    options.codec = Codec::kRawF32;
    const auto encoder = encode::Encoder::Create(loaded_.model.get(), loaded_.fingerprint, options);
    ASSERT_TRUE(encoder.ok()) << encoder.status();
    ingest::IngestCounts counts;
    const absl::Status status =
        ingest::Ingest({source->get(), tokenizer_.get(), &profile, loaded_.model->config().context, loaded_.fingerprint,
                        encoder->get(), store_.get()},
                       {}, {}, &counts);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(counts.added + counts.skipped, static_cast<int64_t>(std::size(kTexts)));
    store_->DropDramTier();
  }

  // What `kvlink ask --doc` asks for.
  Request Ask(const link::LinkProfile& profile) {
    Request request;
    request.linker = profile.linker;
    request.keep_logits = true;
    const auto chat = link::OpenChat(loaded_.weights->chat_template(), loaded_.model->config(), *tokenizer_);
    EXPECT_TRUE(chat.ok()) << chat.status();
    if (!chat.ok()) return request;
    auto prompt = link::MakePrompt(*tokenizer_, *chat->chat_template, chat->options, profile, kSystem, kQuestion);
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    if (prompt.ok()) request.prompt = *std::move(prompt);
    for (const Text& text : kTexts) {
      const auto entry = store_->GetDocument("default", text.id);
      EXPECT_TRUE(entry.ok()) << entry.status();
      if (entry.ok()) request.documents.push_back({entry->parts.at(0).tokens});
    }
    return request;
  }

  // The authors' sequence: segment 0 sees everything before it, each document itself alone.
  std::vector<testing::MaskedToken> AuthorsSequence(int64_t links) const {
    std::vector<testing::MaskedToken> sequence;
    const auto add = [&](absl::Span<const int32_t> ids, int64_t segment) {
      for (const int32_t id : ids) sequence.push_back({id, static_cast<int64_t>(sequence.size()), segment});
    };
    const auto tokens = [&](std::string_view text, bool special) {
      return *tokenizer_->Encode({text.data(), text.size()}, special);
    };
    add(tokens(absl::StrCat("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n", kSystem,
                            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"),
               true),
        0);
    add({kMemStart}, 0);
    for (int64_t i = 0; i < static_cast<int64_t>(std::size(kTexts)); ++i) {
      add(tokens(absl::StrCat("Document (Title: ", kTexts[i].title, ") ", kTexts[i].text, "\n"), false), i + 1);
      for (int64_t j = 0; j < links; ++j) add({static_cast<int32_t>(kFirstLink + i * links + j)}, 0);
    }
    add({kMemEnd}, 0);
    add(tokens(kQuestion, true), 0);
    add(tokens("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", true), 0);
    return sequence;
  }

  // The whole prompt that a request computes and reads, in order of position.
  std::vector<testing::MaskedToken> Assembled(const Request& request, const link::LinkProfile& profile) {
    Case c;
    c.profile = profile;
    c.request = request;
    c.model.vocab = kVocab;
    c.model.context = loaded_.model->config().context;
    return MaskedTokensOf(c, StagesOf(c).Next({}));
  }

  void Check(const std::string& name, int64_t links) {
    SCOPED_TRACE(name);
    const auto profile = link::LoadLinkProfile(name);
    ASSERT_TRUE(profile.ok()) << profile.status();
    ASSERT_TRUE(link::CheckProfile(*profile, loaded_.model->config()).ok());
    IngestAll(*profile);
    if (HasFatalFailure()) return;
    const Request request = Ask(*profile);
    if (HasFailure()) return;

    std::vector<testing::MaskedToken> sequence = AuthorsSequence(links);
    const std::vector<testing::MaskedToken> assembled = Assembled(request, *profile);
    ASSERT_EQ(assembled.size(), sequence.size());
    std::vector<int32_t> special;
    for (size_t i = 0; i < sequence.size(); ++i) {
      ASSERT_EQ(assembled[i].id, sequence[i].id) << "at " << i;
      ASSERT_EQ(assembled[i].position, sequence[i].position) << "at " << i;
      ASSERT_EQ(assembled[i].segment, sequence[i].segment) << "at " << i;
      if (sequence[i].id >= kBos) special.push_back(sequence[i].id);
    }
    // Their ids, as numbers.
    std::vector<int32_t> expected = {kBos, kStartHeader, kEndHeader, kEndOfTurn, kStartHeader, kEndHeader, kMemStart};
    for (int64_t i = 0; i < static_cast<int64_t>(std::size(kTexts)) * links; ++i) {
      expected.push_back(static_cast<int32_t>(kFirstLink + i));
    }
    expected.insert(expected.end(), {kMemEnd, kEndOfTurn, kStartHeader, kEndHeader});
    EXPECT_EQ(special, expected);

    GeneratorOptions options;
    options.codec = Codec::kRawF32;
    options.profile = *profile;
    options.private_tokens = 2048;
    const auto generator = Generator::Create(loaded_.model.get(), loaded_.fingerprint, store_.get(), options);
    ASSERT_TRUE(generator.ok()) << generator.status();
    const auto conversation = (*generator)->Start(request);
    ASSERT_TRUE(conversation.ok()) << conversation.status();
    EXPECT_EQ((*conversation)->stats().documents_disk, static_cast<int64_t>(std::size(kTexts)));
    EXPECT_EQ((*conversation)->stats().documents_encoded, 0);
    std::vector<int64_t> wanted = {static_cast<int64_t>(sequence.size()) - 1};
    std::vector<float> logits((*conversation)->logits().begin(), (*conversation)->logits().end());
    for (int step = 0; step < 3; ++step) {
      wanted.push_back(static_cast<int64_t>(sequence.size()));
      sequence.push_back({(*conversation)->next(), wanted.back(), 0});
      ASSERT_TRUE((*generator)->Step(**conversation, {}).ok());
      logits.insert(logits.end(), (*conversation)->logits().begin(), (*conversation)->logits().end());
    }
    const auto masked = testing::MaskedForward(*loaded_.weights, sequence, {}, wanted);
    ASSERT_TRUE(masked.ok()) << masked.status();
    EXPECT_LE(LargestDifference(logits, *masked), kTolerance);
  }

  TempDirectory directory_;
  Loaded loaded_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::unique_ptr<store::Store> store_;
};

TEST_F(AuthorsTest, TheOneBillionModelDecodesAsTheirMaskSays) {
  UseShape(/*heads=*/4, /*head_dim=*/64);
  if (HasFatalFailure()) return;
  Check("kvlink-llama-5", 5);
  Check("kvlink-llama-1", 1);  // reads the same encodings
}

TEST_F(AuthorsTest, TheThreeBillionModelDecodesAsTheirMaskSays) {
  UseShape(/*heads=*/3, /*head_dim=*/128);
  if (HasFatalFailure()) return;
  Check("kvlink-llama-5", 5);
}

}  // namespace
}  // namespace kvlink::infer
