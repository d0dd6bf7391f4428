// What JSON mode writes: each text parses, and what parses is written, within the bounds of json_rules.h.
#include "nlohmann/json.hpp"

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/seed.h"
#include "tests/worker/grammar/walk.h"
#include "worker/grammar/json_rules.h"

namespace kvlink::grammar {
namespace {

using Json = nlohmann::json;
using ::kvlink::testing::TestSeed;
using testing::Accepted;
using testing::Ends;
using testing::Writes;

const Grammar& ObjectGrammar() {
  static const auto* const grammar = new Grammar(*JsonObjectGrammar());
  return *grammar;
}

std::string Nested(int depth) { return absl::StrCat(std::string(depth, '['), std::string(depth, ']')); }

TEST(JsonObject, WritesWhatIsJson) {
  for (const char* const text :
       {R"({})", R"( {})", "{\n}", R"({"":""})", R"({"a":1,"b":[true,false,null]})",
        R"({"a": 1, "b": {"c": [1, -2.5e+3, 0, -0, 1E9, 0.125e-7]}})", "{\n  \"a\": [\n    1,\n    {}\n  ]\n}",
        "{\n\t\"a\" : \"b\"\n}", R"({"\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00\uD7FF\uE000":"x"})",
        "{\"\xC3\xA4\":\"\xE2\x82\xAC\xED\x9F\xBF\xEE\x80\x80\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF\x7F\"}",
        R"({"n":999999999999999999.12345678901234567890e-99})"}) {
    EXPECT_TRUE(Writes(ObjectGrammar(), text)) << text;
    EXPECT_TRUE(Json::accept(text)) << text;
  }
}

TEST(JsonObject, WritesNothingElse) {
  // A text, and how much of it may be written.
  const std::vector<std::pair<std::string, size_t>> cases = {
      {"[1]", 0},
      {"1", 0},
      {"\n{}", 0},
      {"  {}", 1},
      {"{} ", 2},
      {"{,}", 1},
      {"{\"a\":1,}", 7},
      {"{\"a\" 1}", 5},
      {"{\"a\":01}", 6},
      {"{\"a\":+1}", 5},
      {"{\"a\":.5}", 5},
      {"{\"a\":1.}", 7},
      {"{\"a\":1e}", 7},
      {"{\"a\":1e999}", 9},
      {"{\"a\":1234567890123456789}", 23},
      {"{\"a\":nul}", 8},
      {"{\"a\":'b'}", 5},
      {"{a:1}", 1},
      {"{\"a\":\"\n\"}", 6},
      {"{\"a\":\"\x01\"}", 6},
      {"{\"a\":\"\\x\"}", 7},
      {"{\"a\":\"\\u12g4\"}", 10},
      {"{\"a\":\"\\ud83d\"}", 12},
      {"{\"a\":\"\\ud83d\\u0041\"}", 14},
      {"{\"a\":\"\\ude00\"}", 9},
      {"{\"a\":[1 2]}", 8},
      {"{\"a\":  1}", 6},
      {"{\"a\":\n\n1}", 6},
      {"{\"a\":\"\x80\"}", 6},
      {"{\"a\":\"\xC0\x80\"}", 6},
      {"{\"a\":\"\xC3\x28\"}", 7},
      {"{\"a\":\"\xE0\x80\x80\"}", 7},
      {"{\"a\":\"\xED\xA0\x80\"}", 7},
      {"{\"a\":\"\xF0\x80\x80\x80\"}", 7},
      {"{\"a\":\"\xF4\x90\x80\x80\"}", 7},
      {"{\"a\":\"\xF5\x80\x80\x80\"}", 6},
  };
  for (const auto& [text, accepted] : cases) EXPECT_EQ(Accepted(ObjectGrammar(), text), accepted) << text;
  EXPECT_FALSE(Writes(ObjectGrammar(), "{\"a\":1"));
}

TEST(JsonObject, BoundsBlanksAndDepth) {
  const std::string indent(kMaxIndent, ' ');
  EXPECT_TRUE(Writes(ObjectGrammar(), absl::StrCat("{\n", indent, "}")));
  EXPECT_EQ(Accepted(ObjectGrammar(), absl::StrCat("{\n", indent, " }")), 2 + indent.size());
  // As deep as it goes, and then every list can still be closed.
  Stacks stacks(&ObjectGrammar());
  std::string text = R"({"a":)";
  for (const char byte : text) ASSERT_TRUE(stacks.Push(static_cast<uint8_t>(byte)));
  int depth = 0;
  for (; stacks.Push('['); ++depth) text += '[';
  EXPECT_GT(depth, 50);
  EXPECT_LT(depth, Grammar::kMaxDepth);
  EXPECT_TRUE(Writes(ObjectGrammar(), absl::StrCat(text, std::string(depth, ']'), "}")));
  EXPECT_TRUE(Writes(ObjectGrammar(), absl::StrCat(R"({"a":)", Nested(depth), R"(, "b": [1]})")));
  EXPECT_FALSE(Writes(ObjectGrammar(), absl::StrCat(R"({"a":)", Nested(depth + 1), "}")));
}

TEST(JsonObject, EveryRandomTextParses) {
  std::mt19937_64 random(TestSeed());
  const Ends ends(ObjectGrammar());
  const int rounds = kvlink::testing::Soak() ? 20000 : 300;
  for (int round = 0; round < rounds; ++round) {
    Stacks stacks(&ObjectGrammar());
    std::string text;
    const uint64_t length = random() % 200;
    while (!stacks.ended()) {
      auto byte = static_cast<uint8_t>(random() % 256);
      if (text.size() >= length || random() % 4 == 0) byte = ends.Nearest(stacks);
      if (!stacks.Push(byte)) continue;
      text += static_cast<char>(byte);
      stacks.Settle();
    }
    ASSERT_TRUE(Json::accept(text)) << text;
    for (int byte = 0; byte < 256; ++byte) ASSERT_FALSE(stacks.Push(static_cast<uint8_t>(byte))) << text;
  }
}

TEST(Bounds, AreThoseOfEachNumber) {
  std::mt19937_64 random(TestSeed());
  const auto grammar_of = [](bool integer, const NumberBounds& bounds) {
    GrammarBuilder builder(AllBytes());
    const RuleId rule = builder.NewRule();
    Nfa nfa;
    const Nfa::Fragment body = integer ? BoundedInteger(nfa, bounds) : BoundedNumber(nfa, bounds);
    EXPECT_TRUE(builder.Define(rule, nfa, body).ok());
    return builder.Finish(rule);
  };
  for (int round = 0; round < 300; ++round) {
    const int64_t scale = round % 3 == 0 ? 12 : round % 3 == 1 ? 400 : 100000;
    const auto pick = [&] { return static_cast<int64_t>(random() % (2 * scale + 1)) - scale; };
    NumberBounds bounds;
    if (random() % 4 != 0) bounds.min = pick();
    if (random() % 4 != 0) bounds.max = bounds.min.value_or(-scale) + static_cast<int64_t>(random() % scale);
    bounds.above_min = bounds.min && random() % 2 == 0;
    bounds.below_max = bounds.max && random() % 2 == 0;
    const auto within = [&](double number) {
      return !(bounds.min && (number < *bounds.min || (bounds.above_min && number == *bounds.min))) &&
             !(bounds.max && (number > *bounds.max || (bounds.below_max && number == *bounds.max)));
    };
    const absl::StatusOr<Grammar> integers = grammar_of(true, bounds), numbers = grammar_of(false, bounds);
    const int64_t from = bounds.min.value_or(bounds.max.value_or(0) - 50) - 3;
    for (int64_t number = from; number < from + 60; ++number) {
      const std::string text = std::to_string(number);
      EXPECT_EQ(integers.ok() && Writes(*integers, text), within(static_cast<double>(number))) << text;
      EXPECT_EQ(numbers.ok() && Writes(*numbers, text), within(static_cast<double>(number))) << text;
      for (const char* const fraction : {".0", ".000", ".5", ".001"}) {
        const std::string precise = text + fraction;
        const double value = std::stod(precise);
        if (value == 0 && precise[0] == '-') continue;  // never written with a sign
        EXPECT_EQ(numbers.ok() && Writes(*numbers, precise), within(value)) << precise;
        EXPECT_FALSE(integers.ok() && Writes(*integers, precise));
      }
    }
    if (!numbers.ok()) continue;
    const Ends ends(*numbers);
    for (int walk = 0; walk < 5; ++walk) {  // whatever it writes
      Stacks stacks(&*numbers);
      std::string text;
      while (!stacks.ended() || (random() % 4 != 0 && text.size() < 40 && !stacks.tops().empty())) {
        const auto byte = random() % 8 == 0 && !stacks.ended() ? ends.Nearest(stacks)
                                                               : static_cast<uint8_t>("-.0123456789"[random() % 12]);
        if (stacks.Push(byte)) text += static_cast<char>(byte);
      }
      EXPECT_TRUE(within(Json::parse(text).get<double>())) << text;
    }
  }
}

}  // namespace
}  // namespace kvlink::grammar
