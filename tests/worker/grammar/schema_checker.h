// Whether a value satisfies a JSON schema, by the standard's own rules for the keywords that we understand. Knows
// nothing of grammars.
#ifndef KVLINK_TESTS_WORKER_GRAMMAR_SCHEMA_CHECKER_H_
#define KVLINK_TESTS_WORKER_GRAMMAR_SCHEMA_CHECKER_H_

#include <algorithm>
#include <cmath>
#include <regex>
#include <string>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

namespace kvlink::grammar::testing {

class SchemaChecker {
 public:
  using Json = nlohmann::ordered_json;
  explicit SchemaChecker(const Json& root) : root_(root) {}

  bool Satisfies(const Json& value) const { return Satisfies(value, root_); }

 private:
  static bool IsInteger(const Json& value) {
    return value.is_number() && std::trunc(value.get<double>()) == value.get<double>();
  }
  static bool HasType(const Json& value, const std::string& type) {
    if (type == "integer") return IsInteger(value);
    if (type == "number") return value.is_number();
    return type == (value.is_null()      ? "null"
                    : value.is_boolean() ? "boolean"
                    : value.is_string()  ? "string"
                    : value.is_array()   ? "array"
                    : value.is_object()  ? "object"
                                         : "number");
  }
  static size_t Characters(const std::string& text) {
    size_t count = 0;
    for (const char byte : text) count += (byte & 0xC0) != 0x80 ? 1 : 0;
    return count;
  }

  bool Satisfies(const Json& value, const Json& schema) const {
    if (schema.is_boolean()) return schema.get<bool>();
    for (const auto& [keyword, rule] : schema.items()) {
      if (!Follows(value, keyword, rule, schema)) return false;
    }
    return true;
  }

  int Count(const Json& value, const Json& schemas) const {
    int count = 0;
    for (const Json& schema : schemas) count += Satisfies(value, schema) ? 1 : 0;
    return count;
  }

  bool Follows(const Json& value, const std::string& keyword, const Json& rule, const Json& schema) const {
    if (keyword == "type" && rule.is_string()) return HasType(value, rule.get<std::string>());
    if (keyword == "type") {
      for (const Json& type : rule) {
        if (HasType(value, type.get<std::string>())) return true;
      }
      return false;
    }
    if (keyword == "const") return value == rule;
    if (keyword == "enum") return std::find(rule.begin(), rule.end(), value) != rule.end();
    if (keyword == "anyOf") return Count(value, rule) > 0;
    if (keyword == "oneOf") return Count(value, rule) == 1;
    if (keyword == "allOf") return Count(value, rule) == static_cast<int>(rule.size());
    if (keyword == "$ref") return Satisfies(value, root_.at(Json::json_pointer(rule.get<std::string>().substr(1))));
    if (value.is_string()) return StringFollows(value.get<std::string>(), keyword, rule);
    if (value.is_number()) return NumberFollows(value.get<double>(), keyword, rule);
    if (value.is_array()) return ArrayFollows(value, keyword, rule, schema);
    return !value.is_object() || ObjectFollows(value, keyword, rule, schema);
  }
  static bool StringFollows(const std::string& text, const std::string& keyword, const Json& rule) {
    if (keyword == "minLength") return Characters(text) >= rule.get<size_t>();
    if (keyword == "maxLength") return Characters(text) <= rule.get<size_t>();
    // std::regex knows bytes, not characters.
    const bool ascii = std::all_of(text.begin(), text.end(), [](char byte) { return (byte & 0x80) == 0; });
    return keyword != "pattern" || !ascii || std::regex_search(text, std::regex(rule.get<std::string>()));
  }
  static bool NumberFollows(double number, const std::string& keyword, const Json& rule) {
    if (keyword == "minimum") return number >= rule.get<double>();
    if (keyword == "maximum") return number <= rule.get<double>();
    if (keyword == "exclusiveMinimum") return number > rule.get<double>();
    return keyword != "exclusiveMaximum" || number < rule.get<double>();
  }
  bool ArrayFollows(const Json& list, const std::string& keyword, const Json& rule, const Json& schema) const {
    if (keyword == "minItems") return list.size() >= rule.get<size_t>();
    if (keyword == "maxItems") return list.size() <= rule.get<size_t>();
    if (keyword == "prefixItems") {
      for (size_t i = 0; i < list.size() && i < rule.size(); ++i) {
        if (!Satisfies(list[i], rule[i])) return false;
      }
    }
    if (keyword == "items") {
      for (size_t i = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0; i < list.size(); ++i) {
        if (!Satisfies(list[i], rule)) return false;
      }
    }
    return true;
  }
  bool ObjectFollows(const Json& object, const std::string& keyword, const Json& rule, const Json& schema) const {
    if (keyword == "required") {
      for (const Json& name : rule) {
        if (!object.contains(name.get<std::string>())) return false;
      }
    }
    if (keyword == "properties") {
      for (const auto& [name, inner] : rule.items()) {
        if (object.contains(name) && !Satisfies(object.at(name), inner)) return false;
      }
    }
    if (keyword == "additionalProperties") {
      for (const auto& [name, inner] : object.items()) {
        const bool listed = schema.contains("properties") && schema["properties"].contains(name);
        if (!listed && !Satisfies(inner, rule)) return false;
      }
    }
    return true;
  }

  const Json& root_;
};

}  // namespace kvlink::grammar::testing

#endif  // KVLINK_TESTS_WORKER_GRAMMAR_SCHEMA_CHECKER_H_
