// Schemas: tables of what each writes and what is refused, and random ones against a checker of its own.
#include "worker/grammar/schema.h"

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/seed.h"
#include "tests/worker/grammar/random_schema.h"
#include "tests/worker/grammar/schema_checker.h"
#include "tests/worker/grammar/walk.h"

namespace kvlink::grammar {
namespace {

using ::kvlink::testing::kSanitized;
using ::kvlink::testing::Soak;
using ::kvlink::testing::TestSeed;
using testing::Ends;
using testing::RandomSchema;
using testing::SchemaChecker;
using ::testing::StartsWith;
using testing::Writes;
using OrderedJson = nlohmann::ordered_json;

struct Table {
  std::string schema;
  std::vector<std::string> written, refused;
};

TEST(Schema, WritesWhatItAllows) {
  const std::vector<Table> tables = {
      {"true", {"1", "null", R"([{"a":2}])"}, {""}},
      {"{}", {"1", R"("x")"}, {}},
      {R"({"type":"string"})", {R"("")", R"("\u0001\/")"}, {"1", "null"}},
      {R"({"type":["integer","null"]})", {"-12", "null"}, {"1.5", "1e2", "true"}},
      {R"({"type":"number"})", {"1", "1.5e3"}, {R"("1")"}},
      {R"({"type":"boolean","description":"d","title":"t","default":true,"examples":[1],"format":"x"})",
       {"true", "false"},
       {"True"}},
      {R"({"enum":["a","ab",1,null,{"x":[1]}]})",
       {R"("a")", R"("ab")", "1", "null", R"({"x": [1]})", "{\n\"x\":[ 1 ] }"},
       {R"("abc")", "12", R"({"x":1})"}},
      {R"({"enum":[1,"a",1.5,2.0],"type":"integer"})", {"1", "2.0"}, {R"("a")", "1.5"}},
      {R"({"const":"\u00e4\n"})", {"\"\xC3\xA4\\n\""}, {R"("\u00e4\n")", R"("a")"}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {R"("ab")", "\"\xC3\xA4\xF0\x9F\x98\x80\"", R"("\"\\\n")"},
       {R"("a")", R"("abcd")", R"("a\u0041")"}},
      {R"({"type":"array"})", {"[]", R"([1, "a"])"}, {"{}"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3})",
       {"[1]", "[1,2,3]", "[\n  1,\n  2\n]"},
       {"[]", "[1,2,3,4]", "[\"a\"]"}},
      {R"({"type":"array","items":{"type":"null"},"minItems":2})",
       {"[null,null]", "[null,null,null,null]"},
       {"[null]"}},
      {R"({"prefixItems":[{"type":"integer"},{"type":"string"}]})",
       {"[]", "[1]", R"([1,"a"])"},
       {R"(["a"])", R"([1,"a",2])"}},
      {R"({"prefixItems":[{"type":"integer"}],"items":{"type":"boolean"}})", {"[1,true,false]"}, {"[true]", "[1,2]"}},
      {R"({"prefixItems":[{"type":"integer"}],"minItems":2})", {R"([1,"any"])"}, {"[1]"}},
      {R"({"type":"array","items":false})", {"[]"}, {"[1]"}},
      {R"({"type":"object"})", {"{}", R"({"a":{"b":1}})"}, {"[]"}},
      {R"({"type":"object","properties":{"b":{"type":"integer"},"a":{"type":"string"}},"required":["b"]})",
       {R"({"b":1})", R"({"b": 1, "a": "x"})"},
       {"{}", R"({"a":"x","b":1})", R"({"b":1,"c":2})", R"({"b":1,})", R"({"b":1,"b":2})"}},
      {R"({"properties":{"a":{"type":"null"},"b":{"type":"null"},"c":{"type":"null"}}})",
       {"{}", R"({"a":null})", R"({"b":null})", R"({"a":null,"c":null})", R"({"a":null,"b":null,"c":null})"},
       {R"({"b":null,"a":null})", R"({,"a":null})", "1"}},
      {R"({"properties":{"a":{"type":"null"},"ab":{"type":"null"}},"additionalProperties":{"type":"integer"}})",
       {"{}", R"({"x":1})", R"({"a":null,"b":1,"abc":2,"":3})", R"({"ab":null,"\"":1})"},
       {R"({"a":1})", R"({"ab":1})", R"({"x":1,"a":null})", R"({"\u0061":1})"}},
      {R"({"required":["x"],"additionalProperties":{"type":"integer"}})",
       {R"({"x":1})", R"({"x":1,"y":2})"},
       {"{}", R"({"y":1})"}},
      {R"({"properties":{"a":false,"b":{}}})", {"{}", R"({"b":1})"}, {R"({"a":1})"}},
      {R"({"anyOf":[{"type":"string"},{"type":"integer"},{"type":"array","items":{"type":"string"}}]})",
       {R"("a")", "1", R"(["a"])"},
       {"1.5", "[1]"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"}},"anyOf":[{"required":["a"]},{"required":["b"]}]})",
       {R"({"a":1})", R"({"b":[1]})", R"({"a":1,"b":2})"},
       {"{}"}},
      {R"({"oneOf":[{"properties":{"t":{"const":"x"},"v":{"type":"integer"}}},
                    {"properties":{"t":{"const":"y"},"v":{"type":"string"}}}]})",
       {R"({"t":"x","v":1})", R"({"t":"y","v":"1"})", R"({"t":"x"})"},
       {R"({"t":"x","v":"1"})", "{}", R"({"v":1})"}},
      {R"({"oneOf":[{"type":"string"},{"type":"number"},{"enum":[null,true]}]})", {R"("a")", "1", "null"}, {"false"}},
      {R"({"allOf":[{"$ref":"#/definitions/a"},{"properties":{"y":{"type":"null"}},"required":["y"]}],
           "definitions":{"a":{"properties":{"x":{"type":"integer","minimum":0}},"required":["x"]}}})",
       {R"({"x":1,"y":null})"},
       {R"({"x":1})", R"({"x":-1,"y":null})"}},
      {R"({"allOf":[{"type":["integer","string"]},{"type":["number"],"minimum":3},{"minimum":5}]})",
       {"5"},
       {"4", "5.5", R"("a")"}},
      {R"({"$ref":"#/$defs/a~1b~0","$defs":{"a/b~":{"const":1}}})", {"1"}, {"2"}},
      {R"({"$ref":"#/$defs/a","maxLength":2,"$defs":{"a":{"type":"string","maxLength":5}}})",
       {R"("ab")"},
       {R"("abc")"}},
      {R"({"properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["v","next"]})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"},
       {R"({"v":1})"}},
      {R"({"type":"integer","minimum":-5,"exclusiveMaximum":12})", {"-5", "0", "11"}, {"-6", "12", "007"}},
      {R"({"type":"number","minimum":0,"maximum":1})", {"0", "1", "0.25", "1.00"}, {"-0.1", "1.01", "2", "1e-1"}},
      {R"({"type":"string","pattern":"^[a-f]{2}$"})", {R"("af")"}, {R"("ag")", R"("aff")"}},
      {R"({"type":"string","maxLength":0})", {R"("")"}, {R"("a")"}},
      {R"({"type":"array","uniqueItems":false,"items":{}})", {"[1,1]"}, {}},
      {R"({"type":"string","minimum":7,"items":{"type":"null"}})", {R"("a")"}, {"8"}},
  };
  for (const Table& table : tables) {
    const absl::StatusOr<Grammar> grammar = CompileSchema(table.schema);
    ASSERT_TRUE(grammar.ok()) << table.schema << ": " << grammar.status();
    for (const std::string& text : table.written) {
      EXPECT_TRUE(Writes(*grammar, text)) << table.schema << " does not write " << text;
      EXPECT_TRUE(Writes(*grammar, " " + text));
    }
    for (const std::string& text : table.refused)
      EXPECT_FALSE(Writes(*grammar, text)) << table.schema << " writes " << text;
  }
}

TEST(Schema, RefusesByNameWhatItDoesNotUnderstand) {
  const std::string deep = absl::StrCat(R"({"anyOf":)", std::string(70, '['), std::string(70, ']'), "}");
  std::string wide = R"({"enum":[0)";
  for (int i = 1; i <= 1000; ++i) absl::StrAppend(&wide, ",", i);
  std::string many = R"({"anyOf":[{"const":0})";
  for (int i = 1; i <= 64; ++i) absl::StrAppend(&many, ",{\"const\":", i, "}");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "#: is not JSON"},
      {"{\"a\":", "#: is not JSON"},
      {"{\"title\":\"\xFF\"}", "#: is not JSON"},
      {"1", "#: must be a schema"},
      {std::string(70000, ' '), "#: has 70000 bytes; may have 65536"},
      {deep, "#: is nested deeper than 64"},
      {wide + "]}", "#/enum: has 1001 entries; may have 1000"},
      {many + "]}", "#/anyOf: has 65 schemas; may have 64"},
      {"false", "#: allows no value"},
      {R"({"enum":[]})", "#: allows no value"},
      {R"({"type":"string","enum":[1]})", "#: allows no value"},
      {R"({"type":"array","minItems":2,"maxItems":1})", "#: allows no value"},
      {R"({"minLength":3,"maxLength":2})", "#: allows no value"},
      {R"({"type":"integer","minimum":5,"maximum":4})", "#: allows no value"},
      {R"({"properties":{"a":false},"required":["a"]})", "#: allows no value"},
      {R"({"properties":{"a":{"$ref":"#"}},"required":["a"]})", "#: allows no value"},
      {R"({"$ref":"#"})", "#: refers to itself"},
      {R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})", "#: refers to itself"},
      {R"({"allOf":[{"$ref":"#"},{"type":"null"}]})", "#/allOf/0: refers to itself"},
      {R"({"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}})", "#/$defs/"},
      {R"({"$ref":"#/$defs/none"})", "#/$ref: refers to a place that this schema does not have"},
      {R"({"$ref":"https://example.org/s"})", "#/$ref: must refer to a place in this schema"},
      {R"({"$ref":7})", "#/$ref: must be a string"},
      {R"({"type":"text"})", "#/type: must be a type of JSON"},
      {R"({"type":7})", "#/type: must be a type"},
      {R"({"items":7})", "#/items: must be a schema"},
      {R"({"items":[{"type":"null"}]})", "#/items: must be a schema; lists of them are 'prefixItems'"},
      {R"({"properties":[]})", "#/properties: must be an object of schemas"},
      {R"({"properties":{"a/b":{"multipleOf":2}}})", "#/properties/a~1b/multipleOf: is not supported by this server"},
      {R"({"required":"a"})", "#/required: must be a list of names"},
      {R"({"properties":{},"required":["a"],"additionalProperties":false})", "#/required/0: is in neither"},
      {R"({"minItems":-1})", "#/minItems: must be an integer"},
      {R"({"maxLength":1.5})", "#/maxLength: must be an integer"},
      {R"({"maxLength":100000})", "#: asks for a grammar of more than"},
      {R"({"type":"string","pattern":"a{5000}b{5000}c{9000}.{9000}"})", "#: asks for a grammar of more than"},
      {R"({"anyOf":[]})", "#/anyOf: must be a list of schemas"},
      {R"({"anyOf":{}})", "#/anyOf: must be a list of schemas"},
      {R"({"oneOf":[{"type":"integer"},{"type":"number"}]})", "#/oneOf/1: may allow a value that another"},
      {R"({"oneOf":[{"const":1},{"enum":[2,1.0]}]})", "#/oneOf/1: may allow a value that another"},
      {R"({"oneOf":[{"properties":{"a":{"type":"string"}}},{"properties":{"a":{"pattern":"b"}}}]})",
       "#/oneOf/1: may allow"},
      {R"({"allOf":[{"pattern":"a"},{"pattern":"b"}]})", "#/allOf/1/pattern: cannot be joined"},
      {R"({"allOf":[{"properties":{"a":{}},"additionalProperties":false},{"properties":{"b":{}}}]})",
       "#/allOf/0/additionalProperties: does not list all properties"},
      {R"({"allOf":[{"prefixItems":[{}]},{"items":{"type":"null"}}]})", "#/allOf/1/items: cannot be joined"},
      {R"({"type":"string","enum":["a"],"maxLength":4})", "#/maxLength: is not supported beside enum or const"},
      {R"re({"pattern":"(?=a)"})re", "#/pattern: a group that begins with '(?', other than '(?:', is not supported"},
      {R"({"pattern":"a","maxLength":4})", "#/pattern: is not supported beside"},
      {R"({"pattern":7})", "#/pattern: must be a string"},
      {R"({"type":"number","minimum":0.5})", "#/minimum: is supported for integers"},
      {R"({"minimum":"1"})", "#/minimum: must be a number"},
      {R"({"type":"number","exclusiveMinimum":true})", "#/exclusiveMinimum: must be a number"},
      {R"({"if":{},"then":{}})", "#/if: is not supported"},
      {R"({"$ref":"#/$defs/a","uniqueItems":true,"$defs":{"a":{"type":"array"}}})", "#/uniqueItems: is not supported"},
  };
  for (const auto& [schema, message] : cases) {
    const absl::StatusOr<Grammar> grammar = CompileSchema(schema);
    ASSERT_FALSE(grammar.ok()) << schema;
    EXPECT_EQ(grammar.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(grammar.status().message()), StartsWith(message)) << schema;
  }
  for (const char* const keyword :
       {"not", "patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired",
        "dependentSchemas", "unevaluatedProperties", "unevaluatedItems", "contains", "uniqueItems", "multipleOf",
        "$dynamicRef", "nullable", "x-own"}) {
    const absl::StatusOr<Grammar> grammar =
        CompileSchema(absl::StrCat(R"({"properties":{"a":{")", keyword, R"(":{"a":1}}}})"));
    EXPECT_EQ(grammar.status().message(),
              absl::StrCat("#/properties/a/", keyword, ": is not supported by this server"));
  }
}

// Whatever it takes to say so, a schema is compiled or refused in a moment.
TEST(Schema, CostsLittleHoweverHostile) {
  std::string enums = R"({"enum":[)", names = R"({"properties":{)", options = R"({"anyOf":[)", chain = R"({"$defs":{)";
  for (int i = 0; i < 900; ++i) {
    absl::StrAppend(&enums, i > 0 ? "," : "", "\"", std::string(40, 'a'), i, "\"");
    absl::StrAppend(&names, i > 0 ? "," : "", "\"name", i, "\":{\"type\":\"string\"}");
    absl::StrAppend(&chain, i > 0 ? "," : "", "\"d", i, "\":{\"allOf\":[{\"$ref\":\"#/$defs/d", i + 1,
                    "\"},{\"minLength\":1}]}");
  }
  for (int i = 0; i < 60; ++i) {
    absl::StrAppend(&options, i > 0 ? "," : "", R"re({"anyOf":[{"type":"null"},{"pattern":"(a|b)*a(a|b){)re", i % 13,
                    "}\"}]}");
  }
  const std::vector<std::string> schemas = {
      enums + "]}",
      names + "}}",
      names + R"(},"additionalProperties":true})",
      options + "]}",
      chain + R"(,"d900":{"type":"string"}},"$ref":"#/$defs/d0"})",
      R"re({"pattern":"(a|b)*a(a|b){300}"})re",
      R"re({"pattern":"((((a{99}){99}){99}){99})"})re",
      absl::StrCat(R"({"required":[")", std::string(5000, 'n'), R"("]})"),
  };
  for (const std::string& schema : schemas) (void)CompileSchema(schema);
}

// What is made counts, also where nothing leads to it, and so does what is compared.
TEST(Schema, RefusesWhatTakesLongWithoutBecomingLarge) {
  std::string patterns = R"({"properties":{)", joins = R"({"$defs":{"a":{"enum":[-1)";
  for (int i = 0; i < 80; ++i) {
    absl::StrAppend(&patterns, i > 0 ? "," : "", "\"p", i, R"re(":{"pattern":"[](){10000}"})re");
  }
  for (int i = 0; i < 900; ++i) absl::StrAppend(&joins, ",", i);
  absl::StrAppend(&joins, R"(]},"b":{"enum":[-2)");
  for (int i = 1000; i < 1900; ++i) absl::StrAppend(&joins, ",", i);
  absl::StrAppend(&joins, R"(]}},"properties":{)");
  for (int i = 0; i < 8; ++i) {
    absl::StrAppend(&joins, i > 0 ? "," : "", "\"p", i, R"(":{"allOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}]})");
  }
  EXPECT_THAT(std::string(CompileSchema(patterns + "}}").status().message()),
              ::testing::HasSubstr("asks for a grammar of more than"));
  EXPECT_THAT(std::string(CompileSchema(joins + "}}").status().message()),
              ::testing::HasSubstr("takes too much to join"));
}

TEST(RandomSchemas, WriteWhatTheyAllowAndNothingElse) {
  const int rounds = Soak() ? 5000 : kSanitized ? 60 : 200;
  int64_t values = 0;
  for (int round = 0; round < rounds; ++round) {
    RandomSchema made(TestSeed() + static_cast<uint64_t>(round));
    const std::string schema = made.root().dump();
    SCOPED_TRACE(schema);
    const absl::StatusOr<Grammar> grammar = CompileSchema(schema);
    if (!grammar.ok()) {  // some have no value, or cannot be joined
      EXPECT_THAT(std::string(grammar.status().message()),
                  ::testing::AnyOf(::testing::HasSubstr("allows no value"), ::testing::HasSubstr("joined"),
                                   ::testing::HasSubstr("may allow a value")));
      continue;
    }
    const SchemaChecker checker(made.root());
    for (int i = 0; i < 4; ++i) {
      const OrderedJson value = made.Value();
      if (!checker.Satisfies(value)) continue;  // of an alternative that another constraint rules out
      ++values;
      const std::string compact = value.dump();
      EXPECT_TRUE(Writes(*grammar, compact)) << compact;
      EXPECT_TRUE(Writes(*grammar, value.dump(2))) << compact;
    }
    const Ends ends(*grammar);
    for (int i = 0; i < 4; ++i) {
      Stacks stacks(&*grammar);
      std::string text;
      const uint64_t length = made.Below(120);
      while (!stacks.ended()) {
        auto byte =
            static_cast<uint8_t>(made.Below(4) != 0 ? "\"\\ab{}[],: \n019.-etf"[made.Below(20)] : made.Below(256));
        if (text.size() >= length || made.Below(3) == 0) byte = ends.Nearest(stacks);
        if (!stacks.Push(byte)) continue;
        text += static_cast<char>(byte);
        stacks.Settle();
      }
      const OrderedJson value = OrderedJson::parse(text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << text;
      ASSERT_TRUE(checker.Satisfies(value)) << text;
    }
  }
  EXPECT_GT(values, rounds * 2);
}

}  // namespace
}  // namespace kvlink::grammar
