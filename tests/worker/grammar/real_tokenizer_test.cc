// With SmolLM2's vocabulary: what it makes of values is allowed, and what is allowed is right. Prints the cost of a
// token.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/seed.h"
#include "tests/worker/grammar/random_schema.h"
#include "tests/worker/grammar/schema_checker.h"
#include "tests_source_dir.h"
#include "worker/files/open_tokenizer.h"
#include "worker/grammar/filters.h"

namespace kvlink::grammar {
namespace {

using ::kvlink::testing::TestSeed;
using testing::RandomSchema;
using testing::SchemaChecker;
using OrderedJson = nlohmann::ordered_json;

class RealTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* const named = std::getenv("KVLINK_MODEL");
    const std::string path = named != nullptr ? named : KVLINK_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "no model; deploy/install-deps.sh fetches it";
    tokenizer_ = *model::OpenTokenizer(path);
    bits_.resize(static_cast<size_t>((tokenizer_->vocab_size() + 31) / 32));
  }
  bool Allows(infer::TokenFilter& filter, int32_t token) {
    filter.Allowed(absl::MakeSpan(bits_));
    return (bits_[token / 32] >> (token % 32) & 1) != 0;
  }

  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::vector<uint32_t> bits_;
};

TEST_F(RealTokenizerTest, ItsTokensOfValuesAreAllowed) {
  Filters filters(tokenizer_.get());
  int values = 0;
  for (int round = 0; round < 60; ++round) {
    RandomSchema made(TestSeed() + static_cast<uint64_t>(round));
    const auto make = filters.JsonSchema(made.root().dump());
    if (!make.ok()) continue;
    const OrderedJson value = made.Value();
    if (!SchemaChecker(made.root()).Satisfies(value)) continue;
    ++values;
    for (const std::string& text : {value.dump(), value.dump(2)}) {
      const std::shared_ptr<infer::TokenFilter> filter = (*make)();
      const std::vector<int32_t> tokens = *tokenizer_->Encode(text, false);
      for (const int32_t token : tokens) {
        ASSERT_TRUE(Allows(*filter, token)) << made.root().dump() << "\n" << text;
        filter->Accept(token);
      }
      EXPECT_TRUE(filter->MayEnd());
    }
  }
  EXPECT_GT(values, 30);
}

// As large as the vocabularies of newer models: the tokens of another one, and each again with letters behind it.
class LargerTokenizer final : public model::Tokenizer {
 public:
  LargerTokenizer(const model::Tokenizer& base, int64_t size) : base_(base), size_(size) {}
  int64_t vocab_size() const override { return size_; }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special) const override {
    return base_.Encode(text, parse_special);
  }
  std::string TokenBytes(int32_t id) const override {
    const auto base = static_cast<int32_t>(base_.vocab_size());
    return base_.TokenBytes(id % base) + std::string(static_cast<size_t>(id / base), 'e');
  }
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const override {
    return base_.Decode(ids, skip_special);
  }
  std::optional<int32_t> TokenId(absl::string_view text) const override { return base_.TokenId(text); }
  bool IsSpecial(int32_t id) const override { return base_.IsSpecial(id % static_cast<int32_t>(base_.vocab_size())); }
  std::optional<int32_t> bos() const override { return base_.bos(); }

 private:
  const model::Tokenizer& base_;
  const int64_t size_;
};

// Random answers, the first of which find out what is then known.
void PrintCosts(const model::Tokenizer& tokenizer, const char* schema) {
  Filters filters(&tokenizer);
  std::mt19937_64 random(TestSeed());
  const int64_t vocab = tokenizer.vocab_size();
  std::vector<uint32_t> bits(static_cast<size_t>((vocab + 31) / 32));
  absl::Time began = SteadyNow();
  ASSERT_TRUE(filters.JsonObject().ok());
  std::printf("%lld tokens: %.0f ms once; ", static_cast<long long>(vocab),
              absl::ToDoubleMilliseconds(SteadyNow() - began));
  began = SteadyNow();
  const auto make = *schema == 0 ? filters.JsonObject() : filters.JsonSchema(schema);
  ASSERT_TRUE(make.ok()) << make.status();
  const char* const name = *schema == 0 ? "any object" : "a schema";
  std::printf("%s: compiled in %.0f us", name, absl::ToDoubleMicroseconds(SteadyNow() - began));
  for (const char* const time : {"first", "then"}) {
    absl::Duration masks, longest;
    int tokens = 0;
    for (int answer = 0; answer < 20; ++answer) {
      const std::shared_ptr<infer::TokenFilter> filter = (*make)();
      for (int i = 0; i < 50; ++i) {
        began = SteadyNow();
        filter->Allowed(absl::MakeSpan(bits));
        masks += SteadyNow() - began;
        longest = std::max(longest, SteadyNow() - began);
        ++tokens;
        // The next one that is allowed, from anywhere on.
        int64_t token = static_cast<int64_t>(random() % static_cast<uint64_t>(vocab)), tried = 0;
        for (; (bits[token / 32] >> (token % 32) & 1) == 0 && tried < vocab; ++tried) token = (token + 1) % vocab;
        if (tried == vocab) break;
        ASSERT_FALSE(tokenizer.IsSpecial(static_cast<int32_t>(token)));
        filter->Accept(static_cast<int32_t>(token));
      }
    }
    std::printf("; %s %.1f us a token, at most %.0f us", time, absl::ToDoubleMicroseconds(masks) / tokens,
                absl::ToDoubleMicroseconds(longest));
  }
  std::printf("\n");
}

TEST_F(RealTokenizerTest, SaysWhatATokenCosts) {
  for (const char* const schema :
       {"", R"({"type":"object","properties":{"name":{"type":"string"},"born":{"type":"integer","minimum":1000},
              "tags":{"type":"array","items":{"type":"string"},"maxItems":5},"kind":{"enum":["person","place"]}},
              "required":["name","born"]})"}) {
    PrintCosts(*tokenizer_, schema);
    PrintCosts(LargerTokenizer(*tokenizer_, 128 << 10), schema);
  }
}

}  // namespace
}  // namespace kvlink::grammar
