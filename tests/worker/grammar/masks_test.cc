// Which tokens may come: beside trying each of them.
#include "worker/grammar/masks.h"

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/seed.h"
#include "tests/worker/grammar/list_tokenizer.h"
#include "tests/worker/grammar/random_schema.h"
#include "tests/worker/grammar/schema_checker.h"
#include "tests/worker/grammar/walk.h"
#include "worker/grammar/filters.h"
#include "worker/grammar/json_rules.h"
#include "worker/grammar/schema.h"

namespace kvlink::grammar {
namespace {

using ::kvlink::testing::kSanitized;
using ::kvlink::testing::Soak;
using ::kvlink::testing::TestSeed;
using testing::Ends;
using ::testing::HasSubstr;
using testing::ListTokenizer;
using testing::RandomSchema;
using testing::SchemaChecker;
using OrderedJson = nlohmann::ordered_json;

std::vector<int32_t> TokensOf(const std::vector<uint32_t>& bits) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < bits.size() * 32; ++i) {
    if ((bits[i / 32] >> (i % 32) & 1) != 0) tokens.push_back(static_cast<int32_t>(i));
  }
  return tokens;
}

// What each token says by itself.
std::vector<int32_t> Tried(const Stacks& stacks, const ListTokenizer& tokenizer) {
  std::vector<int32_t> tokens;
  for (int32_t token = 2; token < tokenizer.vocab_size(); ++token) {
    Stacks next = stacks;
    bool fits = true;
    for (const char byte : tokenizer.TokenBytes(token)) fits = fits && next.Push(static_cast<uint8_t>(byte));
    if (fits) tokens.push_back(token);
  }
  return tokens;
}

TEST(Vocabulary, IsATrieOfTheTokens) {
  std::mt19937_64 random(TestSeed());
  const ListTokenizer tokenizer = ListTokenizer::Random(random, 400);
  const Vocabulary vocabulary(tokenizer);
  EXPECT_EQ(vocabulary.bytes(), AllBytes());
  std::vector<int> seen(tokenizer.vocab_size());
  std::string path;
  for (uint32_t i = 1; i < vocabulary.nodes(); ++i) {
    const Vocabulary::Node& node = vocabulary.node(i);
    ASSERT_LE(node.depth, path.size() + 1);
    path.resize(node.depth);
    path.back() = static_cast<char>(node.byte);
    for (const int32_t token : vocabulary.tokens(i)) {
      EXPECT_EQ(tokenizer.TokenBytes(token), path);
      ++seen[token];
    }
    const bool below = i + 1 < vocabulary.nodes() && vocabulary.node(i + 1).depth > node.depth;
    EXPECT_EQ(node.end > i + 1, below);
  }
  EXPECT_EQ(seen[0], 0);
  EXPECT_EQ(seen[1], 0);
  for (size_t token = 2; token < seen.size(); ++token) EXPECT_EQ(seen[token], 1);
}

class LackingTokenizer final : public model::Tokenizer {
 public:
  explicit LackingTokenizer(int byte) : byte_(byte) {}
  int64_t vocab_size() const override { return 256; }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view, bool) const override { return std::vector<int32_t>(); }
  std::string TokenBytes(int32_t id) const override { return std::string(id == byte_ ? 2 : 1, static_cast<char>(id)); }
  std::string Decode(absl::Span<const int32_t>, bool) const override { return ""; }
  std::optional<int32_t> TokenId(absl::string_view) const override { return std::nullopt; }
  bool IsSpecial(int32_t) const override { return false; }
  std::optional<int32_t> bos() const override { return std::nullopt; }

 private:
  const int byte_;
};

TEST(Vocabulary, WithoutAByteWritesWhatNeedsItNot) {
  const LackingTokenizer umlaut(0xC3), brace('}');
  EXPECT_EQ(Vocabulary(umlaut).bytes(), AllBytes().reset(0xC3));
  Filters filters(&umlaut);
  EXPECT_TRUE(filters.JsonObject().ok());
  const auto make = filters.JsonSchema(R"({"enum":["\u00e4","a\u20ac"]})");
  ASSERT_TRUE(make.ok()) << make.status();
  const std::shared_ptr<infer::TokenFilter> filter = (*make)();
  for (const int32_t byte : {0x22, 0x61, 0xE2, 0x82, 0xAC, 0x22}) {
    std::vector<uint32_t> bits(8);
    filter->Allowed(absl::MakeSpan(bits));
    EXPECT_THAT(TokensOf(bits), ::testing::Contains(byte));
    EXPECT_THAT(TokensOf(bits), ::testing::Not(::testing::Contains(0xC3)));
    filter->Accept(byte);
  }
  EXPECT_TRUE(filter->MayEnd());
  EXPECT_THAT(std::string(filters.JsonSchema(R"({"const":"\u00e4"})").status().message()),
              HasSubstr("allows no value"));
  EXPECT_THAT(std::string(Filters(&brace).JsonObject().status().message()), HasSubstr("allows no value"));
}

// Answers of random tokens: at each step exactly those are allowed that fit, there is always one until the end, and
// what comes out is right.
TEST(Masks, AllowWhatFitsAndNeverNothing) {
  std::mt19937_64 random(TestSeed());
  const int rounds = Soak() ? 2000 : kSanitized ? 15 : 60;
  for (int round = 0; round < rounds; ++round) {
    const ListTokenizer tokenizer = ListTokenizer::Random(random, 200);
    RandomSchema made(TestSeed() + static_cast<uint64_t>(round));
    SCOPED_TRACE(made.root().dump());
    absl::StatusOr<Grammar> compiled = CompileSchema(made.root().dump());
    if (!compiled.ok() || round % 8 == 0) compiled = JsonObjectGrammar();
    const bool any_object = round % 8 == 0 || !CompileSchema(made.root().dump()).ok();
    const auto grammar = std::make_shared<const Grammar>(*std::move(compiled));
    Masks masks(grammar, std::make_shared<const Vocabulary>(tokenizer));
    const Ends ends(*grammar);
    for (int answer = 0; answer < 3; ++answer) {
      Stacks stacks(grammar.get());
      std::string text;
      for (size_t tokens = 0; !stacks.ended(); ++tokens) {
        std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocab_size() / 32 + 2), ~0u);
        masks.Allowed(stacks, absl::MakeSpan(bits));
        const std::vector<int32_t> allowed = TokensOf(bits);
        ASSERT_FALSE(allowed.empty()) << text;
        ASSERT_EQ(allowed, Tried(stacks, tokenizer)) << text;
        int32_t token = allowed[random() % allowed.size()];
        if (tokens > 20) token = ends.Nearest(stacks) + 2;
        const std::string bytes = tokenizer.TokenBytes(token);
        for (const char byte : bytes) ASSERT_TRUE(stacks.Push(static_cast<uint8_t>(byte))) << text;
        stacks.Settle();
        text += bytes;
      }
      const OrderedJson value = OrderedJson::parse(text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << text;
      ASSERT_TRUE(any_object ? value.is_object() : SchemaChecker(made.root()).Satisfies(value)) << text;
    }
  }
}

// Of tokens that nest, fewer fit the deeper one is, until none does.
TEST(Masks, HoldAtEveryDepth) {
  const ListTokenizer tokenizer(
      {"[[", "[[[[", "[[[[[[[[", "[\"a\",[", "{\"a\":[[", "]]", "]]]]]]]]", "],[[", "\"a\"", "1,"});
  const auto grammar = std::make_shared<const Grammar>(*CompileSchema("{}"));
  Masks masks(grammar, std::make_shared<const Vocabulary>(tokenizer));
  Stacks stacks(grammar.get());
  int depth = 0;
  do {
    std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocab_size() / 32 + 1));
    masks.Allowed(stacks, absl::MakeSpan(bits));
    ASSERT_EQ(TokensOf(bits), Tried(stacks, tokenizer)) << depth;
    stacks.Settle();
    ++depth;
  } while (stacks.Push('['));
  EXPECT_GT(depth, 50);
}

// The search ends before the trie does, and what it has found by then is sound.
TEST(Masks, OfVeryManyAlternativesAreCutShort) {
  std::mt19937_64 random(TestSeed());
  std::vector<std::string> words;
  for (int i = 0; i < 80000; ++i) {
    std::string word;
    for (int letter = 0; letter < 4; ++letter) word += static_cast<char>('a' + random() % 26);
    words.push_back(word);
  }
  const ListTokenizer tokenizer(words);
  std::string schema = R"({"type":"object","additionalProperties":{"anyOf":[)";
  for (int i = 0; i < 64; ++i)
    absl::StrAppend(&schema, i > 0 ? "," : "", R"({"type":"string","maxLength":)", 10 + i, "}");
  const auto grammar = std::make_shared<const Grammar>(*CompileSchema(schema + "]}}"));
  Masks masks(grammar, std::make_shared<const Vocabulary>(tokenizer));
  Stacks stacks(grammar.get());
  for (const char byte : absl::string_view(R"({"a": "b)")) ASSERT_TRUE(stacks.Push(static_cast<uint8_t>(byte)));
  stacks.Settle();
  EXPECT_EQ(stacks.tops().size(), 64u);
  std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocab_size() / 32 + 1));
  masks.Allowed(stacks, absl::MakeSpan(bits));
  const std::vector<int32_t> allowed = TokensOf(bits);
  for (int byte = 0x20; byte < 0x7F; ++byte) EXPECT_NE(bits[(byte + 2) / 32] >> ((byte + 2) % 32) & 1, 0u);
  EXPECT_GT(allowed.size(), 1000u);
  EXPECT_LT(allowed.size(), 81000u);
  for (int i = 0; i < 500; ++i) {
    Stacks next = stacks;
    for (const char byte : tokenizer.TokenBytes(allowed[random() % allowed.size()])) {
      ASSERT_TRUE(next.Push(static_cast<uint8_t>(byte)));
    }
  }
}

// A schema of words and numbers with more ways to begin a value than stacks are kept; it refers to ManyWords.
std::string ManyAlternatives() {
  std::string schema = R"({"anyOf":[)";
  for (int i = 0; i < 64; ++i) {
    absl::StrAppend(&schema, i > 0 ? "," : "", R"({"anyOf":[{"$ref":"#/$defs/w"},{"const":)", i, "}]}");
  }
  return schema + "]}";
}
std::string ManyWords(int words) {
  std::string schema = R"({"anyOf":[)";
  for (int i = 0; i < words; ++i) absl::StrAppend(&schema, i > 0 ? "," : "", R"({"const":"a)", i, R"("})");
  return schema + "]}";
}

// Behind each token that ends a value, another one begins.
TEST(Masks, OfAlternativesWithinAlternativesAreCutShort) {
  constexpr int kWords = 16;
  std::vector<std::string> tokens;
  for (int i = 0; i < kWords; ++i) {
    for (const char* const behind : {",", ", ", ",\n", ",\n ", ",\n  ", ", \"a", ",\n  \"a"}) {
      tokens.push_back(absl::StrCat(i, "\"", behind));
    }
  }
  const ListTokenizer tokenizer(tokens);
  const auto grammar = std::make_shared<const Grammar>(*CompileSchema(
      absl::StrCat(R"({"type":"array","items":)", ManyAlternatives(), R"(,"$defs":{"w":)", ManyWords(kWords), "}}")));
  Masks masks(grammar, std::make_shared<const Vocabulary>(tokenizer));
  Stacks stacks(grammar.get());
  ASSERT_TRUE(stacks.PushAll(R"(["a)"));
  stacks.Settle();
  EXPECT_GT(stacks.tops().size(), 100u);
  std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocab_size() / 32 + 1)), again = bits;
  masks.Allowed(stacks, absl::MakeSpan(bits));
  const std::vector<int32_t> allowed = TokensOf(bits), fitting = Tried(stacks, tokenizer);
  EXPECT_LT(allowed.size(), fitting.size());
  EXPECT_TRUE(std::includes(fitting.begin(), fitting.end(), allowed.begin(), allowed.end()));
  for (int digit = '0'; digit <= '9'; ++digit) EXPECT_NE(bits[(digit + 2) / 32] >> ((digit + 2) % 32) & 1, 0u);
  masks.Allowed(stacks, absl::MakeSpan(again));
  EXPECT_EQ(bits, again);
}

TEST(Filters, FollowATokenThatFitsOneOfVeryManyAlternatives) {
  const ListTokenizer tokenizer({R"(["z")"});
  Filters filters(&tokenizer);
  const auto make = filters.JsonSchema(absl::StrCat(R"({"anyOf":[{"type":"array","items":)", ManyAlternatives(),
                                                    R"(},{"type":"array","items":{"const":"z"}}],"$defs":{"w":)",
                                                    ManyWords(16), "}}"));
  ASSERT_TRUE(make.ok()) << make.status();
  const std::shared_ptr<infer::TokenFilter> filter = (*make)();
  for (const int32_t token : {258, ']' + 2}) {
    std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocab_size() / 32 + 1));
    filter->Allowed(absl::MakeSpan(bits));
    ASSERT_THAT(TokensOf(bits), ::testing::Contains(token));
    EXPECT_FALSE(filter->MayEnd());
    filter->Accept(token);
  }
  EXPECT_TRUE(filter->MayEnd());
}

TEST(Filters, KeepAnAnswerToTheSchemaAndThenEndIt) {
  std::mt19937_64 random(TestSeed());
  const ListTokenizer tokenizer = ListTokenizer::Random(random, 100);
  Filters filters(&tokenizer);
  const auto make =
      filters.JsonSchema(R"({"properties":{"a":{"type":"integer","minimum":5,"maximum":5}},"required":["a"]})");
  ASSERT_TRUE(make.ok()) << make.status();
  for (int i = 0; i < 2; ++i) {  // each answer begins anew
    const std::shared_ptr<infer::TokenFilter> filter = (*make)();
    for (const int32_t token : tokenizer.AnyTokens("{\"a\":5}", random)) {
      EXPECT_FALSE(filter->MayEnd());
      std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocab_size() / 32 + 1), ~0u);
      filter->Allowed(absl::MakeSpan(bits));
      ASSERT_NE(bits[token / 32] >> (token % 32) & 1, 0u);
      EXPECT_EQ(bits[0] & 3, 0u);  // the special token, and the one of no bytes
      filter->Accept(token);
    }
    EXPECT_TRUE(filter->MayEnd());
    std::vector<uint32_t> bits(1, ~0u);  // a vocabulary that is smaller than the tokenizer's
    filter->Allowed(absl::MakeSpan(bits));
    EXPECT_EQ(bits[0], 0u);
  }
  EXPECT_THAT(std::string(filters.JsonSchema("").status().message()), HasSubstr("empty"));
  EXPECT_THAT(std::string(filters.JsonSchema("{").status().message()), HasSubstr("not JSON"));
}

// The same values as any tokens, and as those of the tokenizer.
TEST(Filters, AcceptAValueHoweverItIsTokenized) {
  std::mt19937_64 random(TestSeed());
  const int rounds = Soak() ? 1000 : kSanitized ? 20 : 80;
  int values = 0;
  for (int round = 0; round < rounds; ++round) {
    const ListTokenizer tokenizer = ListTokenizer::Random(random, 150);
    Filters filters(&tokenizer);
    RandomSchema made(TestSeed() + 7777 + static_cast<uint64_t>(round));
    const auto make = filters.JsonSchema(made.root().dump());
    if (!make.ok()) continue;
    const OrderedJson value = made.Value();
    if (!SchemaChecker(made.root()).Satisfies(value)) continue;
    ++values;
    const std::string text = value.dump();
    for (const std::vector<int32_t>& tokens : {tokenizer.AnyTokens(text, random), *tokenizer.Encode(text, false)}) {
      const std::shared_ptr<infer::TokenFilter> filter = (*make)();
      for (const int32_t token : tokens) {
        std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocab_size() / 32 + 1));
        filter->Allowed(absl::MakeSpan(bits));
        ASSERT_NE(bits[token / 32] >> (token % 32) & 1, 0u) << made.root().dump() << "\n" << text;
        filter->Accept(token);
      }
      EXPECT_TRUE(filter->MayEnd());
    }
  }
  EXPECT_GT(values, rounds / 2);
}

TEST(Filters, GrammarsInUseHaveALimit) {
  const ListTokenizer tokenizer({});
  const auto schema = [](int length) { return absl::StrCat(R"({"type":"string","maxLength":)", length, "}"); };
  Filters filters(&tokenizer, CompileSchema(schema(200))->bytes() * 5 / 2);
  auto first = filters.JsonSchema(schema(200));
  const auto second = filters.JsonSchema(schema(201));
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(filters.JsonSchema(schema(202)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(filters.JsonSchema(schema(201)).ok());  // it is there
  std::shared_ptr<infer::TokenFilter> answer = (*first)();
  first = absl::CancelledError();
  EXPECT_EQ(filters.JsonSchema(schema(202)).status().code(), absl::StatusCode::kResourceExhausted);
  answer = nullptr;
  EXPECT_TRUE(filters.JsonSchema(schema(202)).ok());
}

TEST(Filters, ServeManyThreadsAndForgetOldSchemas) {
  std::mt19937_64 random(TestSeed());
  const ListTokenizer tokenizer = ListTokenizer::Random(random, 100);
  Filters filters(&tokenizer);
  std::vector<std::thread> threads;
  for (int number = 0; number < 4; ++number) {
    threads.emplace_back([&, number] {
      std::mt19937_64 own(TestSeed() + number);
      for (int round = 0; round < 60; ++round) {
        const int length = static_cast<int>(own() % (2 * Filters::kMaxGrammars));
        const auto make =
            own() % 3 == 0
                ? filters.JsonObject()
                : filters.JsonSchema(absl::StrCat(R"({"minLength":)", length, R"(,"maxLength":)", length, "}"));
        ASSERT_TRUE(make.ok());
        const std::shared_ptr<infer::TokenFilter> filter = (*make)();
        std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocab_size() / 32 + 1));
        for (int step = 0; step < 20 && !filter->MayEnd(); ++step) {
          filter->Allowed(absl::MakeSpan(bits));
          const std::vector<int32_t> allowed = TokensOf(bits);
          ASSERT_FALSE(allowed.empty());
          filter->Accept(allowed[own() % allowed.size()]);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace kvlink::grammar
