// Patterns beside std::regex.
#include "worker/grammar/pattern.h"

#include <random>
#include <regex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/seed.h"
#include "tests/worker/grammar/walk.h"

namespace kvlink::grammar {
namespace {

using ::kvlink::testing::TestSeed;
using testing::Ends;
using ::testing::HasSubstr;
using testing::Writes;

absl::StatusOr<Grammar> GrammarOf(absl::string_view pattern) {
  Nfa nfa;
  const absl::StatusOr<Nfa::Fragment> body = PatternFragment(pattern, nfa);
  if (!body.ok()) return body.status();
  GrammarBuilder builder(AllBytes());
  const RuleId rule = builder.NewRule();
  if (const absl::Status status = builder.Define(rule, nfa, *body); !status.ok()) return status;
  return builder.Finish(rule);
}

// As it stands between quotes.
std::string Written(const std::string& text) {
  const std::string quoted = nlohmann::json(text).dump();
  return quoted.substr(1, quoted.size() - 2);
}

TEST(Pattern, FindsWhatTheStandardLibraryFinds) {
  std::mt19937_64 random(TestSeed());
  for (const char* const pattern : {"",
                                    "a",
                                    "^a",
                                    "a$",
                                    "^a$",
                                    "^$",
                                    "a|b",
                                    "^a|b$",
                                    "^(a|b)$",
                                    "^(?:ab)+$",
                                    "^a*b?c+$",
                                    "^a{2}$",
                                    "^a{2,}b$",
                                    "^a{1,3}$",
                                    "^[abc]+$",
                                    "^[^a]$",
                                    "^[a-c\\-]{2}$",
                                    "^[\\d.]+$",
                                    "^\\w\\W\\s\\S$",
                                    "^.$",
                                    "^\\.$",
                                    "^\\\"\\\\$",
                                    "^[\\]\"]$",
                                    "^a.c|b+\\n$",
                                    "^((a|b)(c|(d|e)))*$",
                                    "^a+?b*?c??$",
                                    "^\\x61\\u0062$",
                                    "(a|)b",
                                    "^[^\\s]*$",
                                    "^\\/\\-$"}) {
    const absl::StatusOr<Grammar> grammar = GrammarOf(pattern);
    ASSERT_TRUE(grammar.ok()) << pattern << ": " << grammar.status();
    const std::regex oracle(pattern);
    const std::string alphabet = "abcde019. \n\"\\-_/]";
    const int rounds = kvlink::testing::Soak() ? 20000 : 400;
    for (int round = 0; round < rounds; ++round) {
      std::string text;
      for (uint64_t size = random() % 5; size > 0; --size)
        text += alphabet[random() % (round % 2 == 0 ? 4 : alphabet.size())];
      ASSERT_EQ(Writes(*grammar, Written(text)), std::regex_search(text, oracle)) << pattern << " in " << text;
    }
    const Ends ends(*grammar);
    for (int walk = 0; walk < 20; ++walk) {
      Stacks stacks(&*grammar);
      std::string text;
      while (!stacks.ended() || (random() % 4 != 0 && text.size() < 20)) {
        const auto byte =
            random() % 3 == 0 && !stacks.ended() ? ends.Nearest(stacks) : static_cast<uint8_t>(random() % 128);
        if (stacks.Push(byte)) text += static_cast<char>(byte);
        if (stacks.tops().empty()) break;
      }
      const auto json = nlohmann::json::parse(absl::StrCat("\"", text, "\""), nullptr, false);
      ASSERT_FALSE(json.is_discarded()) << text;
      EXPECT_TRUE(std::regex_search(json.get<std::string>(), oracle)) << pattern << " in " << text;
    }
  }
}

TEST(Pattern, CountsCharactersNotBytes) {
  const absl::StatusOr<Grammar> grammar = GrammarOf("^.[\xC3\xA4-\xF0\x9F\x98\x80]\\u20ac$");
  ASSERT_TRUE(grammar.ok());
  EXPECT_TRUE(Writes(*grammar, "\xF0\x9F\x98\x80\xE2\x82\xAC\xE2\x82\xAC"));
  EXPECT_TRUE(Writes(*grammar, "\xC3\xA4\xC3\xA4\xE2\x82\xAC"));
  EXPECT_FALSE(Writes(*grammar, "\xC3\xA4\xC3\xA3\xE2\x82\xAC"));
  EXPECT_FALSE(Writes(*grammar, "\xE2\x80\xA8\xC3\xA4\xE2\x82\xAC"));  // a line separator
  EXPECT_FALSE(Writes(*grammar, "\xC3\xA4\xF0\x9F\x98\x81\xE2\x82\xAC"));
}

TEST(Pattern, RefusesWhatItCannotSayExactly) {
  for (const auto& [pattern, message] : std::vector<std::pair<std::string, std::string>>{
           {"(?=a)", "'(?'"},
           {"(?!a)", "'(?'"},
           {"(?<n>a)", "'(?'"},
           {"a(b", "a group has no end"},
           {"a)", "')' here"},
           {"*a", "'*' here"},
           {"a**", "'*' here"},
           {"a{x}", "no number"},
           {"a{3,2}", "malformed"},
           {"a{10001}", "a count above 10000"},
           {"[a", "a class has no end"},
           {"[b-a]", "range"},
           {"[\\d-z]", "range"},
           {"\\b", "'\\b'"},
           {"\\1", "'\\1'"},
           {"\\p{L}", "'\\p'"},
           {"a\\", "backslash"},
           {"\\x6", "code"},
           {"\\ud800", "surrogate"},
           {"a^b", "'^' here"},
           {"a$b", "'b' here"},
           {"(a$)", "'$' within a group"},
           {"]", "']' here"},
           {std::string(33, '(') + std::string(33, ')'), "more than 32 groups"},
           {std::string(2000, 'a'), "more than 1024 bytes"}}) {
    const absl::StatusOr<Grammar> grammar = GrammarOf(pattern);
    ASSERT_FALSE(grammar.ok()) << pattern;
    EXPECT_THAT(std::string(grammar.status().message()), HasSubstr(message)) << pattern;
  }
}

}  // namespace
}  // namespace kvlink::grammar
