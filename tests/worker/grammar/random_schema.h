// Random schemas of what CompileSchema understands, and random values that they allow.
#ifndef KVLINK_TESTS_WORKER_GRAMMAR_RANDOM_SCHEMA_H_
#define KVLINK_TESTS_WORKER_GRAMMAR_RANDOM_SCHEMA_H_

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace kvlink::grammar::testing {

class RandomSchema {
 public:
  using Json = nlohmann::ordered_json;

  explicit RandomSchema(uint64_t seed) : random_(seed) {
    Json body = Make(0);
    root_ = body.is_object() ? body : Json{{"anyOf", Json::array({body})}};
    root_["$schema"] = "https://json-schema.org/draft/2020-12/schema";
    root_["$defs"] = {{"tree", Json::parse(R"({"type": "object", "title": "of a tree", "properties": {
        "name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
        "required": ["name"]})")}};
  }

  const Json& root() const { return root_; }
  // A value in the order in which it is written.
  Json Value() { return Value(root_, 0); }
  uint64_t Below(uint64_t bound) { return random_() % bound; }

 private:
  struct Pattern {
    const char* pattern;
    std::vector<std::string> examples;
  };
  static const std::vector<Pattern>& Patterns() {
    static const auto* const patterns = new std::vector<Pattern>{
        {"^[A-Z]{2}-\\d{3,4}$", {"AB-123", "ZZ-0000"}},
        {"ab+c", {"abc", "xx abbbc \" \\ y"}},
        {"^(?:red|green|blue)(?:, (?:red|green|blue))*$", {"red", "red, blue, red"}},
        {"^[^\\s\"]+@[a-z.]+\\.(com|org)$", {"a@b.com", "x\\y@q.r.org"}},
        {"^$|^.\\/?$", {"", "a", "//"}},
    };
    return *patterns;
  }

  bool Chance(int percent) { return static_cast<int>(Below(100)) < percent; }
  int64_t From(int64_t min, int64_t max) { return min + static_cast<int64_t>(Below(max - min + 1)); }

  Json Make(int depth) {
    switch (Below(depth < 3 ? 17 : 10)) {
      case 0:
        return {{"type", "string"}, {"description", "any"}};
      case 1: {
        Json text = {{"type", "string"}};
        if (Chance(50)) text["minLength"] = From(0, 3);
        if (Chance(80)) text["maxLength"] = From(3, 6);
        return text;
      }
      case 2:
        return {{"type", "string"}, {"pattern", Patterns()[Below(Patterns().size())].pattern}};
      case 3:
        return {{"type", Chance(50) ? "integer" : "number"}};
      case 4:
        return MakeBounded();
      case 5:
        return {{"type", Chance(50) ? "boolean" : "null"}};
      case 6:
        return {{"enum", {"red", "green \"1\"", 12, -0.5, nullptr, {1, {{"a", true}}}, "gr\u00fcn"}}};
      case 7:
        return {{"const", Chance(50) ? Json("one\n") : Json{{"x", {1, 2.5}}}}};
      case 8:
        return {{"type", {"string", "null", "integer"}}, {"minimum", 3}};
      case 9:
        return Chance(50) ? Json(true) : Json::object();
      case 10:
        return MakeList(depth);
      case 11:
        return {{"anyOf", {Make(depth + 1), Make(depth + 1), {{"type", "null"}}}}};
      case 12:
        return MakeOneOf(depth);
      case 13:
        return {{"$ref", "#/$defs/tree"}};
      case 14:
        return {{"allOf", {MakeObject(depth, "a", false), MakeObject(depth, "b", false)}}};
      default:
        return MakeObject(depth, "p", true);
    }
  }
  Json MakeBounded() {
    Json number = {{"type", Chance(50) ? "integer" : "number"}};
    const int64_t min = From(-1200, 1200);
    const int64_t max = min + From(2, Chance(50) ? 20 : 2000);
    if (Chance(70)) number[Chance(50) ? "minimum" : "exclusiveMinimum"] = min;
    if (Chance(70)) number[Chance(50) ? "maximum" : "exclusiveMaximum"] = max;
    return number;
  }
  Json MakeList(int depth) {
    Json list = {{"type", "array"}};
    if (Chance(60)) list["items"] = Make(depth + 1);
    if (Chance(30)) list["prefixItems"] = {Make(depth + 1), Make(depth + 1)};
    if (Chance(40)) list["minItems"] = From(0, 3);
    if (Chance(60)) list["maxItems"] = From(3, 4);
    return list;
  }
  Json MakeOneOf(int depth) {
    if (Chance(40)) return {{"oneOf", {{{"type", "string"}}, {{"type", "number"}}, MakeObject(depth, "o", false)}}};
    Json first = MakeObject(depth, "f", false), second = MakeObject(depth, "s", false);
    first["properties"]["kind"] = {{"const", "first"}};
    second["properties"]["kind"] = {{"enum", {"second", "other"}}};
    if (Chance(50)) first["required"] = second["required"] = Json::array({"kind"});
    return {{"oneOf", {first, second}}};
  }
  // Properties PREFIX0, PREFIX1 and so on.
  Json MakeObject(int depth, const std::string& prefix, bool extra) {
    Json object = {{"type", "object"}, {"properties", Json::object()}};
    Json required = Json::array();
    for (int i = static_cast<int>(Below(4)); i >= 0; --i) {
      const std::string name = absl::StrCat(prefix, Chance(20) ? "\"\xC3\xA4" : "", i);
      object["properties"][name] = Make(depth + 1);
      if (Chance(50)) required.push_back(name);
    }
    if (!required.empty()) object["required"] = required;
    if (extra && Chance(50)) object["additionalProperties"] = Chance(50) ? Json(Chance(50)) : Make(depth + 1);
    return object;
  }

  std::string Text(int64_t characters) {
    static const char* const kPieces[] = {
        "a", "b", " ", "\"", "\\", "/", "\n", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "{", "\x7F"};
    std::string text;
    for (; characters > 0; --characters) text += kPieces[Below(std::size(kPieces))];
    return text;
  }
  Json AnyValue(int depth) {
    switch (Below(depth < 3 ? 7 : 5)) {
      case 0:
        return Text(From(0, 5)) + (Chance(20) ? "\x01" : "");
      case 1:
        return From(-1000000, 1000000);
      case 2:
        return static_cast<double>(From(-1000, 1000)) / 8;
      case 3:
        return Chance(50);
      case 4:
        return nullptr;
      case 5:
        return Json::array({AnyValue(depth + 1), AnyValue(depth + 1)});
      default:
        return {{Text(2), AnyValue(depth + 1)}, {"x", AnyValue(depth + 1)}};
    }
  }
  Json Value(const Json& schema, int depth) {
    if (schema.is_boolean()) return AnyValue(depth);
    if (schema.contains("$ref"))
      return Value(root_.at(Json::json_pointer(schema["$ref"].get<std::string>().substr(1))), depth + 1);
    if (schema.contains("const")) return schema["const"];
    for (const char* const list : {"anyOf", "oneOf", "enum"}) {
      if (!schema.contains(list)) continue;
      const Json& chosen = schema[list][Below(schema[list].size())];
      return std::string(list) == "enum" ? chosen : Value(chosen, depth);
    }
    if (schema.contains("allOf")) {
      Json whole = Json::object();
      for (const Json& part : schema["allOf"]) whole.update(Value(part, depth));
      return whole;
    }
    if (!schema.contains("type")) return AnyValue(depth);
    const Json& type = schema["type"];
    return OfType(type.is_array() ? type[Below(type.size())] : type, schema, depth);
  }
  Json OfType(const std::string& type, const Json& schema, int depth) {
    if (type == "null") return nullptr;
    if (type == "boolean") return Chance(50);
    if (type == "object") return ObjectValue(schema, depth);
    if (type == "array") return ListValue(schema, depth);
    if (type != "string") return NumberValue(type, schema);
    if (!schema.contains("pattern")) return Text(From(schema.value("minLength", 0), schema.value("maxLength", 6)));
    for (const Pattern& pattern : Patterns()) {
      if (schema["pattern"] == pattern.pattern) return pattern.examples[Below(pattern.examples.size())];
    }
    return nullptr;
  }
  Json NumberValue(const std::string& type, const Json& schema) {
    const bool open_min = schema.contains("exclusiveMinimum"), open_max = schema.contains("exclusiveMaximum");
    const bool has_min = open_min || schema.contains("minimum"), has_max = open_max || schema.contains("maximum");
    const auto bound = [&](bool open, const char* exclusive, const char* inclusive, int64_t inwards) {
      return open ? schema[exclusive].get<int64_t>() + inwards : schema.value(inclusive, int64_t{0});
    };
    int64_t min = bound(open_min, "exclusiveMinimum", "minimum", 1);
    int64_t max = bound(open_max, "exclusiveMaximum", "maximum", -1);
    if (!has_min) min = has_max ? max - 5000 : -5000;
    if (!has_max) max = min + 9000;
    const int64_t number = From(min, max);
    if (type == "integer" || Chance(40)) return number;
    return static_cast<double>(number) + (number < max ? static_cast<double>(Below(8)) / 8 : 0);
  }
  Json ListValue(const Json& schema, int depth) {
    const bool prefix = schema.contains("prefixItems");
    const int64_t listed = prefix ? static_cast<int64_t>(schema["prefixItems"].size()) : 0;
    const int64_t min = schema.value("minItems", 0);
    int64_t max = schema.value("maxItems", min + 2);
    if (prefix && !schema.contains("items") && min <= listed) max = std::min(max, listed);
    Json list = Json::array();
    for (int64_t count = depth > 5 ? min : From(min, std::max(min, max)), i = 0; i < count; ++i) {
      list.push_back(i < listed                 ? Value(schema["prefixItems"][i], depth + 1)
                     : schema.contains("items") ? Value(schema["items"], depth + 1)
                                                : AnyValue(depth + 1));
    }
    return list;
  }
  Json ObjectValue(const Json& schema, int depth) {
    Json object = Json::object();
    const Json required = schema.value("required", Json::array());
    for (const auto& [name, inner] : schema["properties"].items()) {
      const bool must = name == "kind" || std::find(required.begin(), required.end(), name) != required.end();
      if (must || (depth < 5 && Chance(50))) object[name] = Value(inner, depth + 1);
    }
    const Json others = schema.value("additionalProperties", Json(false));
    for (int i = 0; others != false && i < 2; ++i) {
      if (Chance(50)) object[absl::StrCat("+", i == 0 ? "" : "\"\xC3\xA4")] = Value(others, depth + 1);
    }
    return object;
  }

  std::mt19937_64 random_;
  Json root_;
};

}  // namespace kvlink::grammar::testing

#endif  // KVLINK_TESTS_WORKER_GRAMMAR_RANDOM_SCHEMA_H_
