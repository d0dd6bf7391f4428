// Which values a schema has: by its alternatives, its list, or its types. schema_values.cc writes those of each type.
#include "worker/grammar/schema_rules.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/grammar/schema.h"

namespace kvlink::grammar {
namespace {

// The names of constraints other than these.
std::vector<std::string> Without(const std::vector<std::string>& constraints, absl::string_view name) {
  std::vector<std::string> others;
  for (const std::string& other : constraints) {
    if (other != name) others.push_back(other);
  }
  return others;
}

bool IsInteger(const Json& value) {
  if (!value.is_number_float()) return value.is_number();
  return value.get<double>() == static_cast<double>(static_cast<int64_t>(std::clamp(value.get<double>(), -9e15, 9e15)));
}

// Whether a value has one of the types.
bool HasType(const Json& value, const std::vector<std::string>& types) {
  return absl::c_any_of(types, [&](const std::string& type) {
    return ValueTypeBit(value) == TypeBitOf(type) && (type != "integer" || IsInteger(value));
  });
}

}  // namespace

absl::StatusOr<Grammar> SchemaRules::Compile() {
  KVLINK_ASSIGN_OR_RETURN(rules_, DefineJsonRules(builder_));
  KVLINK_ASSIGN_OR_RETURN(const RuleId start, RuleOf(tree_.root()));
  for (; !open_.empty(); open_.pop_front()) {
    const auto [schema, rule] = open_.front();
    Nfa nfa;
    KVLINK_ASSIGN_OR_RETURN(const Nfa::Fragment values, Values(schema, nfa));
    if (const absl::Status status = builder_.Define(rule, nfa, values); !status.ok()) {
      return schema.Refuse(status.message());
    }
  }
  absl::StatusOr<Grammar> grammar = FinishJson(builder_, start);
  if (!grammar.ok()) return tree_.root().Refuse(grammar.status().message());
  return grammar;
}

absl::StatusOr<RuleId> SchemaRules::RuleOf(const Place& schema) {
  KVLINK_ASSIGN_OR_RETURN(const Place resolved, tree_.Resolve(schema));
  const bool boolean = resolved.json->is_boolean();
  if (boolean && resolved.json->get<bool>()) return rules_.value;
  if (!boolean && Constraints(resolved).empty()) return rules_.value;
  if (!boolean && resolved.Has("type") && Constraints(resolved).size() == 1) {
    const Json& type = *resolved.At("type").json;
    if (type == "string") return rules_.string;
    if (type == "integer") return rules_.integer;
    if (type == "number") return rules_.number;
    if (type == "object") return rules_.object;
    if (type == "array") return rules_.array;
  }
  const auto [known, added] = known_.try_emplace(resolved.json, 0);
  if (added) {
    known->second = builder_.NewRule();
    open_.push_back({resolved, known->second});
  }
  return known->second;
}

SchemaRules::FragmentOr SchemaRules::Values(const Place& schema, Nfa& nfa) {
  if (schema.json->is_boolean()) return nfa.Nothing();  // true has a rule of its own
  const std::vector<std::string> constraints = Constraints(schema);
  if (schema.Has("anyOf") || schema.Has("oneOf")) return Alternatives(schema, constraints, nfa);
  if (schema.Has("enum") || schema.Has("const")) return Listed(schema, constraints, nfa);
  KVLINK_ASSIGN_OR_RETURN(const std::vector<std::string> types, TypeNames(schema));
  // A constraint of another type has no effect.
  for (const std::string& name : constraints) {
    if (KeywordOf(name) == Keyword::kUnsupported) return schema.At(name).Refuse("is not supported by this server");
  }
  std::vector<Nfa::Fragment> parts;
  for (const std::string& type : types) {
    KVLINK_ASSIGN_OR_RETURN(const Nfa::Fragment part, OfType(type, schema, nfa));
    parts.push_back(part);
  }
  return nfa.Alternatives(parts);
}

SchemaRules::FragmentOr SchemaRules::Alternatives(const Place& schema, const std::vector<std::string>& constraints,
                                                  Nfa& nfa) {
  const std::string name = schema.Has("anyOf") ? "anyOf" : "oneOf";
  const Place list = schema.At(name);
  if (!list.json->is_array() || list.json->empty()) return list.Refuse("must be a list of schemas");
  if (list.json->size() > kMaxAlternatives) {
    return list.Refuse(absl::StrCat("has ", list.json->size(), " schemas; may have ", kMaxAlternatives));
  }
  std::optional<Place> beside;  // what holds for all alternatives
  if (const std::vector<std::string> others = Without(constraints, name); !others.empty()) {
    Json rest = Json::object();
    for (const std::string& other : others) rest[other] = *schema.At(other).json;
    KVLINK_ASSIGN_OR_RETURN(beside, tree_.Own(std::move(rest), schema.pointer));
  }
  std::vector<Place> alternatives;
  for (size_t i = 0; i < list.json->size(); ++i) {
    KVLINK_ASSIGN_OR_RETURN(Place alternative, tree_.Resolve(list.At(i)));
    if (beside) {
      KVLINK_ASSIGN_OR_RETURN(alternative, tree_.Join({*beside, alternative}, alternative.pointer));
    }
    alternatives.push_back(std::move(alternative));
  }
  if (name == "oneOf") {
    KVLINK_ASSIGN_OR_RETURN(alternatives, Exclusive(std::move(alternatives)));
  }
  std::set<RuleId> rules;
  for (const Place& alternative : alternatives) {
    KVLINK_ASSIGN_OR_RETURN(const RuleId rule, RuleOf(alternative));
    rules.insert(rule);
  }
  std::vector<Nfa::Fragment> parts;
  for (const RuleId rule : rules) parts.push_back(nfa.CallOf(rule));
  return nfa.Alternatives(parts);
}

// Where a property tells two alternatives apart, it is written in both, and so no value is of both.
absl::StatusOr<std::vector<Place>> SchemaRules::Exclusive(std::vector<Place> alternatives) {
  std::vector<std::set<std::string>> required(alternatives.size());
  for (size_t i = 0; i < alternatives.size(); ++i) {
    for (size_t j = i + 1; j < alternatives.size(); ++j) {
      const std::optional<std::string> property = tree_.Apart(alternatives[i], alternatives[j]);
      if (!property) {
        return alternatives[j].Refuse(
            "may allow a value that another alternative of oneOf allows; use anyOf, or a property that tells them "
            "apart");
      }
      if (property->empty()) continue;
      required[i].insert(*property);
      required[j].insert(*property);
    }
  }
  for (size_t i = 0; i < alternatives.size(); ++i) {
    for (const std::string& property : required[i]) {
      KVLINK_ASSIGN_OR_RETURN(alternatives[i], tree_.Requiring(alternatives[i], property));
    }
  }
  return alternatives;
}

SchemaRules::FragmentOr SchemaRules::Listed(const Place& schema, const std::vector<std::string>& constraints,
                                            Nfa& nfa) {
  for (const std::string& name : constraints) {
    if (name != "enum" && name != "const" && name != "type") {
      return schema.At(name).Refuse("is not supported beside enum or const");
    }
  }
  std::vector<Json> values;
  if (schema.Has("enum")) {
    const Place list = schema.At("enum");
    if (!list.json->is_array()) return list.Refuse("must be a list of values");
    values.assign(list.json->begin(), list.json->end());
    if (schema.Has("const") && !absl::c_linear_search(values, *schema.At("const").json)) values.clear();
  }
  if (schema.Has("const") && (!schema.Has("enum") || !values.empty())) values = {*schema.At("const").json};
  std::vector<std::string> types;
  if (schema.Has("type")) {
    KVLINK_ASSIGN_OR_RETURN(types, TypeNames(schema));
  }
  std::vector<Nfa::Fragment> parts;
  for (const Json& value : values) {
    if (!schema.Has("type") || HasType(value, types)) parts.push_back(Literal(value, nfa));
  }
  return nfa.Alternatives(parts);
}

Nfa::Fragment SchemaRules::Literal(const Json& value, Nfa& nfa) {
  if (!value.is_structured()) return nfa.Bytes(value.dump(-1, ' ', false, Json::error_handler_t::replace));
  const bool list = value.is_array();
  std::vector<Nfa::Fragment> parts = {nfa.Bytes(list ? "[" : "{"), Space(nfa)};
  bool first = true;
  for (const auto& [name, entry] : value.items()) {
    if (!first) {
      parts.push_back(nfa.Bytes(","));
      parts.push_back(Space(nfa));
    }
    first = false;
    if (!list) {
      parts.push_back(nfa.Bytes(JsonString(name)));
      parts.push_back(Space(nfa));
      parts.push_back(nfa.Bytes(":"));
      parts.push_back(Space(nfa));
    }
    parts.push_back(Literal(entry, nfa));
    parts.push_back(Space(nfa));
  }
  parts.push_back(nfa.Bytes(list ? "]" : "}"));
  return nfa.Sequence(parts);
}

SchemaRules::FragmentOr SchemaRules::OfType(const std::string& type, const Place& schema, Nfa& nfa) {
  if (type == "null") return nfa.Bytes("null");
  if (type == "boolean") return nfa.Alternatives({nfa.Bytes("true"), nfa.Bytes("false")});
  if (type == "string") return String(schema, nfa);
  if (type == "array") return Array(schema, nfa);
  if (type == "object") return Object(schema, nfa);
  return Number(type, schema, nfa);
}

}  // namespace kvlink::grammar
