// Goldens: tests/golden/make_tokenizer.py says how they are made and from which reference.
#include "worker/text/tokenizer.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests_source_dir.h"
#include "worker/files/open_tokenizer.h"
#include "worker/text/tokenizer_bpe.h"

namespace kvlink::model {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string& GoldenFolder() {
  static const std::string* const folder = new std::string(KVLINK_SOURCE_DIR "/tests/golden/tokenizer/");
  return *folder;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Json Golden(const std::string& name) { return Json::parse(ReadFile(GoldenFolder() + name)); }

std::vector<std::string> Strings() { return Golden("strings.json").get<std::vector<std::string>>(); }

std::vector<int32_t> Ids(const Json& json) { return json.get<std::vector<int32_t>>(); }

std::vector<int32_t> EncodeOrDie(const Tokenizer& tokenizer, const std::string& text, bool parse_special) {
  auto ids = tokenizer.Encode(text, parse_special);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<int32_t>();
}

std::string Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(&tokenizer);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text + decoder.Finish();
}

// The base description with the keys of a case put in.
Json Variant(const Json& golden_case) {
  Json description = Golden(golden_case["base"].get<std::string>());
  for (const auto& [key, value] : golden_case["change"].items()) {
    const size_t dot = key.find('.');
    (dot == std::string::npos ? description[key] : description[key.substr(0, dot)][key.substr(dot + 1)]) = value;
  }
  return description;
}

std::string Small(const std::string& name = "bpe.json") { return ReadFile(GoldenFolder() + name); }

std::unique_ptr<Tokenizer> ParseOrDie(const std::string& json) {
  auto tokenizer = ParseTokenizerJson(json);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

TEST(TokenizerJson, EveryVariantGivesTheReferencesIdsAndText) {
  const Json cases = Golden("cases.json");
  ASSERT_GT(cases.size(), 20u);
  for (const Json& golden_case : cases) {
    SCOPED_TRACE(golden_case["name"].get<std::string>());
    const auto tokenizer = ParseOrDie(Variant(golden_case).dump());
    ASSERT_NE(tokenizer, nullptr);
    for (size_t i = 0; i < golden_case["strings"].size(); ++i) {
      const std::string text = golden_case["strings"][i];
      EXPECT_EQ(EncodeOrDie(*tokenizer, text, false), Ids(golden_case["ids"][i])) << text;
      const std::vector<int32_t> ids = Ids(golden_case["ids_with_control_tokens"][i]);
      EXPECT_EQ(EncodeOrDie(*tokenizer, text, true), ids) << text;
      EXPECT_EQ(tokenizer->Decode(ids, false), golden_case["decoded"][i][0].get<std::string>()) << text;
      EXPECT_EQ(tokenizer->Decode(ids, true), golden_case["decoded"][i][1].get<std::string>()) << text;
      EXPECT_EQ(Stream(*tokenizer, ids), tokenizer->Decode(ids, false));
    }
  }
}

TEST(TokenizerJson, MergesAsStringsAreMergesAsPairs) {
  Json description = Json::parse(Small());
  for (Json& merge : description["model"]["merges"]) {
    ASSERT_TRUE(merge.is_array());
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const auto pairs = ParseOrDie(Small()), strings = ParseOrDie(description.dump());
  ASSERT_NE(strings, nullptr);
  for (const std::string& text : Strings()) {
    EXPECT_EQ(EncodeOrDie(*pairs, text, false), EncodeOrDie(*strings, text, false));
  }
}

TEST(TokenizerJson, AllTextSurvivesTheRoundTrip) {
  const auto bytes = ParseOrDie(Small()), pieces = ParseOrDie(Small("sentencepiece.json"));
  for (const std::string& text : Strings()) {
    EXPECT_EQ(bytes->Decode(EncodeOrDie(*bytes, text, false), false), text);
    if (text.find("▁") != std::string::npos) continue;  // SentencePiece cannot tell it from a space
    EXPECT_EQ(pieces->Decode(EncodeOrDie(*pieces, text, false), false), text);
  }
}

TEST(SentencePiece, GgufGivesTheLibrarysIdsAndText) {
  const Json golden = Golden("pieces.json");
  GgufTokenizer gguf;
  gguf.model = "llama";
  gguf.pre = "default";
  gguf.tokens = golden["tokens"].get<std::vector<std::string>>();
  gguf.scores = golden["scores"].get<std::vector<float>>();
  gguf.token_types = golden["token_types"].get<std::vector<int32_t>>();
  gguf.bos = 1;
  gguf.unknown = 0;
  const auto made = MakeGgufTokenizer(gguf);
  ASSERT_TRUE(made.ok()) << made.status();
  const Tokenizer& tokenizer = **made;
  const std::vector<std::string> strings = Strings();
  ASSERT_GE(strings.size(), 2000u);
  for (size_t i = 0; i < strings.size(); ++i) {
    const std::vector<int32_t> ids = Ids(golden["ids"][i]);
    ASSERT_EQ(EncodeOrDie(tokenizer, strings[i], false), ids) << strings[i];
    const auto changed = golden["decoded_if_changed"].find(std::to_string(i));
    const std::string text = changed == golden["decoded_if_changed"].end() ? strings[i] : changed->get<std::string>();
    ASSERT_EQ(tokenizer.Decode(ids, false), text);
    ASSERT_EQ(Stream(tokenizer, ids), text);
  }
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_TRUE(tokenizer.IsSpecial(1));
  EXPECT_EQ(tokenizer.TokenBytes(*tokenizer.TokenId("<0xE2>")), "\xE2");
  EXPECT_EQ(tokenizer.TokenBytes(*tokenizer.TokenId("▁an")), " an");
  EXPECT_EQ(tokenizer.FirstTokenBytes(*tokenizer.TokenId("▁an")), "an");
}

TEST(SentencePiece, SpansPutNoSpaceInsideAText) {
  const auto tokenizer = ParseOrDie(Small("sentencepiece.json"));
  const auto ids = EncodeSpans(*tokenizer, {{"<s>the", true}, {" <s>x", false}, {"</s>", true}, {"y", false}});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(tokenizer->Decode(*ids, false), "<s> the <s>x</s> y");
  EXPECT_EQ(std::count(ids->begin(), ids->end(), *tokenizer->TokenId("<s>")), 1);
}

class SmolLm2 : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* const path = std::getenv("KVLINK_MODEL");
    const std::string model = path != nullptr ? path : KVLINK_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::filesystem::exists(model)) GTEST_SKIP() << model << " is missing";
    auto opened = OpenTokenizer(model);
    ASSERT_TRUE(opened.ok()) << opened.status();
    tokenizer_ = *std::move(opened);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(SmolLm2, GivesTheReferencesIdsAndText) {
  const Json golden = Golden("smollm2.json");
  const std::vector<std::string> strings = Strings();
  ASSERT_GE(strings.size(), 2000u);
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  for (size_t i = 0; i < strings.size(); ++i) {
    const std::string key = std::to_string(i);
    const std::vector<int32_t> ids = Ids(golden["ids"][i]);
    ASSERT_EQ(EncodeOrDie(*tokenizer_, strings[i], false), ids) << strings[i];
    const auto control = golden["ids_with_control_tokens"].find(key);
    ASSERT_EQ(EncodeOrDie(*tokenizer_, strings[i], true),
              control == golden["ids_with_control_tokens"].end() ? ids : Ids(*control));
    const auto changed = golden["decoded_if_changed"].find(key);
    const std::string text = changed == golden["decoded_if_changed"].end() ? strings[i] : changed->get<std::string>();
    ASSERT_EQ(tokenizer_->Decode(ids, false), text);
    ASSERT_EQ(Stream(*tokenizer_, ids), text);
  }
  // Any ids, most of them no valid UTF-8 together.
  for (const Json& sequence : golden["sequences"]) {
    const std::vector<int32_t> ids = Ids(sequence[0]);
    ASSERT_EQ(tokenizer_->Decode(ids, false), sequence[1].get<std::string>());
    ASSERT_EQ(tokenizer_->Decode(ids, true), sequence[2].get<std::string>());
    ASSERT_EQ(Stream(*tokenizer_, ids), sequence[1].get<std::string>());
  }
}

TEST_F(SmolLm2, ControlTokensMatchInTrustedSpansOnly) {
  const int32_t start = *tokenizer_->TokenId("<|im_start|>"), end = *tokenizer_->TokenId("<|im_end|>");
  EXPECT_TRUE(tokenizer_->IsSpecial(start));
  EXPECT_EQ(tokenizer_->TokenBytes(end), "<|im_end|>");
  EXPECT_EQ(tokenizer_->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer_->TokenBytes(1 << 30), "");
  const auto ids =
      EncodeSpans(*tokenizer_,
                  {{"<|im_", true}, {"start|>user\n", true}, {"<|im_end|>", false}, {"<|im", false}, {"_end|>", true}});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(tokenizer_->Decode(*ids, false), "<|im_start|>user\n<|im_end|><|im_end|>");
  EXPECT_EQ(tokenizer_->Decode(*ids, true), "user\n<|im_end|><|im_end|>");
  EXPECT_EQ(std::count(ids->begin(), ids->end(), start), 1);
  EXPECT_EQ(std::count(ids->begin(), ids->end(), end), 0);
}

TEST(StreamDecoder, HoldsBackWhatCouldStillBecomeValid) {
  const auto tokenizer = ParseOrDie(Small());
  const auto byte = [&](const char* spelled) { return *tokenizer->TokenId(spelled); };
  // U+1F600 is F0 9F 98 80, spelled ð Ł ĺ Ģ.
  StreamDecoder decoder(tokenizer.get());
  EXPECT_EQ(decoder.Push(byte("ð")), "");
  EXPECT_EQ(decoder.Push(byte("Ł")), "");
  EXPECT_EQ(decoder.Push(byte("ĺ")), "");
  EXPECT_EQ(decoder.Push(byte("Ģ")), "😀");
  EXPECT_EQ(decoder.Push(byte("ð")), "");
  EXPECT_EQ(decoder.Push(byte("a")), "\uFFFDa");
  EXPECT_EQ(decoder.Push(byte("ð")), "");
  EXPECT_EQ(decoder.Push(byte("Ł")), "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(Encode, RefusesInvalidUtf8WithItsPlace) {
  const auto tokenizer = ParseOrDie(Small());
  for (const std::string& bad : {std::string("abc\xFF"), std::string("abc\xC0\x80"), std::string("abc\xED\xA0\x80"),
                                 std::string("abc\xF4\x90\x80\x80"), std::string("abc\xE2\x82")}) {
    const auto ids = tokenizer->Encode(bad, true);
    ASSERT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("at byte 3"));
  }
}

// One long word: n log n ends at once, a quadratic merge would take minutes.
TEST(Encode, LongWordsAreNotQuadratic) {
  const auto bytes = ParseOrDie(Small()), pieces = ParseOrDie(Small("sentencepiece.json"));
  const int size = std::getenv("KVLINK_SOAK") != nullptr ? 1 << 20 : 1 << 18;
  std::string letters;
  std::mt19937 random(7);
  for (int i = 0; i < size; ++i) letters += static_cast<char>('a' + random() % 26);
  for (const std::string& text : {std::string(size, 'a'), std::string(size, ' '), std::string(size, '\n'), letters}) {
    EXPECT_EQ(bytes->Decode(EncodeOrDie(*bytes, text, false), false), text);
    EXPECT_EQ(pieces->Decode(EncodeOrDie(*pieces, text, false), false), text);
  }
}

TEST(TokenizerJson, BosComesFromTheTemplate) {
  Json description = Json::parse(Small("sentencepiece.json"));
  EXPECT_EQ(ParseOrDie(description.dump())->bos(), std::nullopt);
  description["post_processor"] = Json::parse(
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
          "special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}})");
  EXPECT_EQ(ParseOrDie(description.dump())->bos(), 1);
  // The tokenizer itself adds none.
  EXPECT_NE(EncodeOrDie(*ParseOrDie(description.dump()), "a", true)[0], 1);
}

TEST(OpenTokenizer, ReadsADirectory) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "kvlink_tokenizer_test";
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(folder / name) << text; };
  write("config.json", "{}");
  const auto missing = OpenTokenizer(folder.string());
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("tokenizer.json"));
  write("tokenizer.json", Small("sentencepiece.json"));
  write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}})");
  const auto opened = OpenTokenizer(folder.string());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->bos(), 1);
  write("tokenizer.json", "{");
  const auto broken = OpenTokenizer(folder.string());
  EXPECT_EQ(broken.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(broken.status().message()), HasSubstr("tokenizer.json: "));
  std::filesystem::remove_all(folder);
}

struct Refusal {
  const char* change;  // JSON merge patch on bpe.json
  absl::StatusCode code;
  const char* names;
};

class Refused : public ::testing::TestWithParam<Refusal> {};

TEST_P(Refused, WithTheKey) {
  Json description = Json::parse(Small());
  description.merge_patch(Json::parse(GetParam().change));
  const auto made = ParseTokenizerJson(description.dump());
  ASSERT_EQ(made.status().code(), GetParam().code) << made.status();
  EXPECT_THAT(std::string(made.status().message()), HasSubstr(GetParam().names));
  EXPECT_EQ(made.status().message().find('\n'), absl::string_view::npos);
}

constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

INSTANTIATE_TEST_SUITE_P(
    Descriptions, Refused,
    ::testing::Values(
        Refusal{R"({"model": {"type": "Unigram"}})", kUnimplemented, "Unigram"},
        Refusal{R"({"model": {"dropout": 0.1}})", kUnimplemented, "model.dropout"},
        Refusal{R"({"model": {"end_of_word_suffix": "</w>"}})", kUnimplemented, "model.end_of_word_suffix"},
        Refusal{R"({"model": {"byte_fallback": true}})", kUnimplemented, "byte_fallback"},
        Refusal{R"({"model": {"vocab": null}})", kInvalid, "model.vocab"},
        Refusal{R"({"model": {"vocab": {"zz": -1}}})", kInvalid, "zz"},
        Refusal{R"({"model": {"vocab": {"zz": 0}}})", kInvalid, "id 0 of another token"},
        Refusal{R"({"model": {"vocab": {"zz": 16000000}}})", kInvalid, "too large"},
        Refusal{R"({"model": {"vocab": {"zz": 1e30}}})", kInvalid, "zz"},
        Refusal{R"({"model": {"merges": 1}})", kInvalid, "model.merges"},
        Refusal{R"({"model": {"merges": ["a b c"]}})", kInvalid, "model.merges[0]"},
        Refusal{R"({"model": {"merges": [["qq", "qq"]]}})", kInvalid, "model.merges[0]"},
        Refusal{R"({"model": {"merges": [["a"]]}})", kInvalid, "model.merges[0]"},
        Refusal{R"({"model": {"unk_token": "nowhere"}})", kInvalid, "model.unk_token"},
        Refusal{R"({"model": {"ignore_merges": 1}})", kInvalid, "model.ignore_merges"},
        Refusal{R"({"normalizer": {"type": "NFKC"}})", kUnimplemented, "NFKC"},
        Refusal{R"({"normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}})", kUnimplemented,
                "normalizer"},
        Refusal{R"({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "a"}})", kInvalid, "empty"},
        Refusal{R"({"normalizer": {"type": "Prepend"}})", kInvalid, "normalizer.prepend"},
        Refusal{R"({"normalizer": 3})", kInvalid, "normalizer"},
        Refusal{R"({"pre_tokenizer": {"type": "BertPreTokenizer"}})", kUnimplemented, "BertPreTokenizer"},
        Refusal{R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{Han}+"}, "behavior": "Isolated"}})",
                kUnimplemented, "\\p{Han}+"},
        Refusal{R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"}})",
                kUnimplemented, "pre_tokenizer"},
        Refusal{R"({"pre_tokenizer": {"type": "Digits", "individual_digits": true}})", kUnimplemented, "ByteLevel"},
        Refusal{R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": 1}})", kInvalid,
                "pre_tokenizer.pretokenizers"},
        Refusal{R"({"decoder": null})", kUnimplemented, "decoder"},
        Refusal{R"({"decoder": {"type": "WordPiece"}})", kUnimplemented, "decoder"},
        Refusal{R"({"added_tokens": [{"id": 2000000, "content": "<x>"}]})", kInvalid, "<x>"},
        Refusal{R"({"added_tokens": [{"id": 0, "content": "<x>"}]})", kInvalid, "<x>"},
        Refusal{R"({"added_tokens": [{"content": "<x>"}]})", kInvalid, "added_tokens[0].id"},
        Refusal{R"({"added_tokens": [7]})", kInvalid, "added_tokens[0]"}));

TEST(TokenizerJson, RefusesWhatIsNoJson) {
  for (const char* text : {"", "{", "[]", "null", "\xFF", "{\"model\": {}}", "{\"model\": []}"}) {
    EXPECT_FALSE(ParseTokenizerJson(text).ok()) << text;
  }
  EXPECT_FALSE(ParseTokenizerJson(std::string(1 << 20, '[')).ok());
}

GgufTokenizer SmallGguf() {
  GgufTokenizer gguf;
  gguf.model = "gpt2";
  gguf.pre = "gpt-2";
  gguf.tokens = {"a", "b", "ab", "<x>"};
  gguf.token_types = {1, 1, 1, 3};
  gguf.merges = {"a b"};
  return gguf;
}

TEST(Gguf, RefusesWhatItCannotReproduce) {
  ASSERT_TRUE(MakeGgufTokenizer(SmallGguf()).ok());
  const auto expect = [](GgufTokenizer gguf, absl::StatusCode code, const char* names) {
    const auto made = MakeGgufTokenizer(std::move(gguf));
    EXPECT_EQ(made.status().code(), code) << made.status();
    EXPECT_THAT(std::string(made.status().message()), HasSubstr(names));
  };
  GgufTokenizer gguf = SmallGguf();
  gguf.pre = "default";
  expect(gguf, kUnimplemented, "\"default\"");
  gguf = SmallGguf();
  gguf.model = "bert";
  expect(gguf, kUnimplemented, "bert");
  gguf = SmallGguf();
  gguf.merges = {"a a"};
  expect(gguf, kInvalid, "tokenizer.ggml.merges: entry 0");
  gguf = SmallGguf();
  gguf.token_types.pop_back();
  expect(gguf, kInvalid, "token_type");
  gguf = SmallGguf();
  gguf.tokens.clear();
  expect(gguf, kInvalid, "tokenizer.ggml.tokens");
  gguf = SmallGguf();
  gguf.bos = 4;
  expect(gguf, kInvalid, "4");
  gguf = SmallGguf();
  gguf.model = "llama";
  expect(gguf, kInvalid, "tokenizer.ggml.scores");
  gguf.scores = {0, 0, 0, std::nanf("")};
  expect(gguf, kInvalid, "not a number");
  gguf.scores = {0, 0, 0, 0};
  gguf.token_types[2] = 5;
  expect(gguf, kUnimplemented, "unused piece");
}

// Text of users never becomes a control token, not by merges either.
TEST(Gguf, MergesNeverMakeControlTokens) {
  GgufTokenizer gguf = SmallGguf();
  gguf.token_types[2] = 3;
  const auto made = MakeGgufTokenizer(gguf);
  ASSERT_TRUE(made.ok());
  EXPECT_THAT(EncodeOrDie(**made, "ab", false), ElementsAre(0, 1));
  EXPECT_THAT(EncodeOrDie(**made, "ab", true), ElementsAre(2));
}

TEST(Gguf, ControlTokenOfOneByteKeepsTheText) {
  GgufTokenizer gguf = SmallGguf();
  gguf.token_types[0] = 3;
  const auto made = MakeGgufTokenizer(gguf);
  ASSERT_TRUE(made.ok());
  EXPECT_EQ((*made)->Decode(EncodeOrDie(**made, "abba", false), false), "abba");
}

// U+0120 spells the space, also where it is a control token.
TEST(Gguf, ControlTokenOfASpelledByteDecodesToTheByte) {
  GgufTokenizer gguf = SmallGguf();
  gguf.tokens.push_back("\xC4\xA0");
  gguf.token_types.push_back(3);
  const auto made = MakeGgufTokenizer(gguf);
  ASSERT_TRUE(made.ok());
  const std::vector<int32_t> ids = EncodeOrDie(**made, "a b", false);
  EXPECT_EQ((*made)->Decode(ids, false), "a b");
  EXPECT_EQ((*made)->Decode(ids, true), "a b") << "it is text, so nobody may leave it out";
  EXPECT_FALSE((*made)->IsSpecial(4));
  EXPECT_TRUE((*made)->IsSpecial(3));
}

// An added token may be what spells a byte or a merge, which are then what it means.
TEST(Gguf, AddedTokensThatSpellBytesKeepTheText) {
  for (const char* pre : {"gpt-2", "llama-bpe"}) {  // the second one looks words up
    for (const bool merge : {true, false}) {
      GgufTokenizer gguf = SmallGguf();
      gguf.pre = pre;
      gguf.tokens.clear();
      for (int byte = 0; byte < 256; ++byte) {
        gguf.tokens.emplace_back();
        AppendUtf8(ByteCharacter(static_cast<uint8_t>(byte)), gguf.tokens.back());
      }
      gguf.tokens.insert(gguf.tokens.end(), {"\u0120a", "\u00e9a"});
      gguf.token_types.assign(gguf.tokens.size(), 1);
      for (const int added : {0xE9, 0xFC, 256, 257}) gguf.token_types[added] = 4;
      gguf.merges.clear();
      if (merge) gguf.merges = {"\u0120 a"};
      const auto made = MakeGgufTokenizer(gguf);
      ASSERT_TRUE(made.ok()) << made.status();
      for (const char* text :
           {"caf\u00e9", "\u98a8", "\u0120", " a", "b a", "\u0120a", "\u00e9a", "\u00fcber \u00fc"}) {
        const std::vector<int32_t> ids = EncodeOrDie(**made, text, false);
        EXPECT_EQ((*made)->Decode(ids, false), text) << pre;
        EXPECT_EQ(Stream(**made, ids), text) << pre;
      }
      EXPECT_EQ(EncodeOrDie(**made, " a", false).size(), merge ? 1u : 2u);
      EXPECT_THAT(EncodeOrDie(**made, "\u00fc", false), ElementsAre(0xFC)) << "no text holds this byte";
      EXPECT_THAT(EncodeOrDie(**made, "\u00e9a", false), ElementsAre(257));
    }
  }
}

TEST(TokenizerJson, RefusesTwoContentsOfOneAddedToken) {
  Json description = Json::parse(Small());
  description["added_tokens"] = Json::parse(R"([{"id": 5000, "content": "<x>"}, {"id": 5000, "content": "<y>"}])");
  const auto made = ParseTokenizerJson(description.dump());
  EXPECT_EQ(made.status().code(), kInvalid) << made.status();
}

}  // namespace
}  // namespace kvlink::model
