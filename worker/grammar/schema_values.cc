// Strings, numbers, arrays and objects of a schema.
#include <algorithm>
#include <cmath>
#include <map>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/utf8.h"
#include "worker/grammar/pattern.h"
#include "worker/grammar/schema_rules.h"

namespace kvlink::grammar {
namespace {

// A count that a schema gives; written as 3 or 3.0.
absl::StatusOr<int64_t> CountOf(const Place& schema, const char* member, int64_t otherwise) {
  if (!schema.Has(member)) return otherwise;
  const Place place = schema.At(member);
  constexpr double kMaxCount = 1e9;  // more is refused by its size, if it counts
  if (!place.json->is_number()) return place.Refuse("must be an integer that is not negative");
  const double count = place.json->get<double>();
  if (!(count >= 0) || std::trunc(count) != count) return place.Refuse("must be an integer that is not negative");
  return static_cast<int64_t>(std::min(count, kMaxCount));
}

// An integral bound; nullopt: none.
absl::StatusOr<std::optional<int64_t>> BoundOf(const Place& schema, const char* member) {
  if (!schema.Has(member)) return std::nullopt;
  const Place place = schema.At(member);
  if (!place.json->is_number()) return place.Refuse("must be a number");
  const double bound = place.json->get<double>();
  if (std::trunc(bound) != bound || std::abs(bound) > static_cast<double>(kMaxBound)) {
    return place.Refuse(absl::StrCat("is supported for integers from ", -kMaxBound, " to ", kMaxBound));
  }
  return static_cast<int64_t>(bound);
}

constexpr size_t kMaxNameBytes = 512;  // of a property

// The names that begin alike, by their characters.
struct NameTree {
  std::map<char32_t, NameTree> next;
  bool ends = false;
};

// From `from`, which stands behind the characters of `tree`: ways to `free` that leave its names, and ends that are
// none of them.
void LeaveNames(const NameTree& tree, StateId from, StateId free, StateId end, Nfa& nfa) {
  CharacterSet within;
  for (const auto& [character, deeper] : tree.next) {
    within.Add(character, character);
    const StateId to = nfa.NewState();
    nfa.Link(from, nfa.Characters(CharacterSet(character, character)), to);
    LeaveNames(deeper, to, free, end, nfa);
  }
  nfa.Link(from, nfa.Characters(within.Complement()), free);
  if (!tree.ends) nfa.Skip(from, end);
}

}  // namespace

SchemaRules::FragmentOr SchemaRules::String(const Place& schema, Nfa& nfa) {
  KVLINK_ASSIGN_OR_RETURN(const int64_t min, CountOf(schema, "minLength", 0));
  KVLINK_ASSIGN_OR_RETURN(const int64_t max, CountOf(schema, "maxLength", Nfa::kUnbounded));
  const bool counted = min > 0 || max != Nfa::kUnbounded;
  if (!schema.Has("pattern")) {
    if (!counted) return nfa.CallOf(rules_.string);
    if (min > max) return nfa.Nothing();
    const Nfa::Fragment text = nfa.Repeat(min, max, [&] { return nfa.Characters(CharacterSet::Writable()); });
    return nfa.Sequence({nfa.Bytes("\""), text, nfa.Bytes("\"")});
  }
  const Place pattern = schema.At("pattern");
  if (counted) return pattern.Refuse("is not supported beside minLength or maxLength");
  if (!pattern.json->is_string()) return pattern.Refuse("must be a string");
  const FragmentOr text = PatternFragment(pattern.json->get_ref<const std::string&>(), nfa);
  if (!text.ok()) return pattern.Refuse(text.status().message());
  return nfa.Sequence({nfa.Bytes("\""), *text, nfa.Bytes("\"")});
}

SchemaRules::FragmentOr SchemaRules::Number(const std::string& type, const Place& schema, Nfa& nfa) {
  NumberBounds bounds;
  KVLINK_ASSIGN_OR_RETURN(bounds.min, BoundOf(schema, "minimum"));
  KVLINK_ASSIGN_OR_RETURN(bounds.max, BoundOf(schema, "maximum"));
  KVLINK_ASSIGN_OR_RETURN(const std::optional<int64_t> above, BoundOf(schema, "exclusiveMinimum"));
  KVLINK_ASSIGN_OR_RETURN(const std::optional<int64_t> below, BoundOf(schema, "exclusiveMaximum"));
  bounds.above_min = above && (!bounds.min || *above >= *bounds.min);
  if (bounds.above_min) bounds.min = above;
  bounds.below_max = below && (!bounds.max || *below <= *bounds.max);
  if (bounds.below_max) bounds.max = below;
  const bool integer = type == "integer";
  if (!bounds.min && !bounds.max) return nfa.CallOf(integer ? rules_.integer : rules_.number);
  return integer ? BoundedInteger(nfa, bounds) : BoundedNumber(nfa, bounds);
}

absl::StatusOr<std::optional<RuleId>> SchemaRules::Rest(const Place& schema, const char* member, bool otherwise) {
  if (!schema.Has(member)) return otherwise ? std::optional<RuleId>(rules_.value) : std::nullopt;
  const Place rest = schema.At(member);
  if (rest.json->is_array()) return rest.Refuse("must be a schema; lists of them are 'prefixItems'");
  if (rest.json->is_boolean() && !rest.json->get<bool>()) return std::nullopt;
  KVLINK_ASSIGN_OR_RETURN(const RuleId rule, RuleOf(rest));
  return rule;
}

SchemaRules::FragmentOr SchemaRules::Array(const Place& schema, Nfa& nfa) {
  KVLINK_ASSIGN_OR_RETURN(const int64_t min, CountOf(schema, "minItems", 0));
  KVLINK_ASSIGN_OR_RETURN(const int64_t max, CountOf(schema, "maxItems", Nfa::kUnbounded));
  std::vector<RuleId> first;
  if (schema.Has("prefixItems")) {
    const Place list = schema.At("prefixItems");
    if (!list.json->is_array()) return list.Refuse("must be a list of schemas");
    for (size_t i = 0; i < list.json->size(); ++i) {
      KVLINK_ASSIGN_OR_RETURN(const RuleId rule, RuleOf(list.At(i)));
      first.push_back(rule);
    }
  }
  const auto listed = static_cast<int64_t>(first.size());
  KVLINK_ASSIGN_OR_RETURN(const std::optional<RuleId> others, Rest(schema, "items", listed == 0 || min > listed));
  const Nfa::Fragment array = nfa.Nothing();
  StateId at = nfa.NewState();  // behind an element, or none
  nfa.Link(array.start, nfa.Sequence({nfa.Bytes("["), Space(nfa)}), at);
  for (int64_t count = 0; !nfa.full(); ++count) {
    if (count >= min && count <= max) nfa.Link(at, nfa.Bytes("]"), array.end);
    if (count >= max || (count >= listed && !others)) break;
    const RuleId rule = count < listed ? first[count] : *others;
    const Nfa::Fragment comma = count > 0 ? nfa.Sequence({nfa.Bytes(","), Space(nfa)}) : nfa.Empty();
    const Nfa::Fragment element = nfa.Sequence({comma, nfa.CallOf(rule), Space(nfa)});
    if (count >= std::max<int64_t>({listed, min, 1}) && max == Nfa::kUnbounded) {
      nfa.Link(at, element, at);  // as many as one likes
      break;
    }
    const StateId behind = nfa.NewState();
    nfa.Link(at, element, behind);
    at = behind;
  }
  return array;
}

absl::StatusOr<std::vector<SchemaRules::Property>> SchemaRules::Properties(const Place& schema,
                                                                           std::optional<RuleId>* others) {
  std::vector<Property> properties;
  if (schema.Has("properties")) {
    const Place list = schema.At("properties");
    if (!list.is_object()) return list.Refuse("must be an object of schemas");
    for (const auto& [name, value] : list.json->items()) {
      KVLINK_ASSIGN_OR_RETURN(const RuleId rule, RuleOf(list.At(name)));
      properties.push_back({name, rule, false});
    }
  }
  KVLINK_ASSIGN_OR_RETURN(*others, Rest(schema, "additionalProperties", !schema.Has("properties")));
  KVLINK_RETURN_IF_ERROR(AddRequired(schema, *others, properties));
  for (const Property& property : properties) {
    if (property.name.size() > kMaxNameBytes) {
      return schema.Refuse(absl::StrCat("has a property with a name of more than ", kMaxNameBytes, " bytes"));
    }
  }
  return properties;
}

absl::Status SchemaRules::AddRequired(const Place& schema, std::optional<RuleId> others,
                                      std::vector<Property>& properties) const {
  if (!schema.Has("required")) return absl::OkStatus();
  const Place required = schema.At("required");
  if (!required.json->is_array()) return required.Refuse("must be a list of names");
  for (size_t i = 0; i < required.json->size(); ++i) {
    const Json& entry = (*required.json)[i];
    if (!entry.is_string()) return required.Refuse("must be a list of names");
    const auto& name = entry.get_ref<const std::string&>();
    const auto found = absl::c_find_if(properties, [&](const Property& property) { return property.name == name; });
    if (found != properties.end()) {
      found->required = true;
      continue;
    }
    if (!others && schema.Has("additionalProperties")) {
      return required.At(i).Refuse("is in neither 'properties' nor 'additionalProperties'");
    }
    properties.push_back({name, others.value_or(rules_.value), true});
  }
  return absl::OkStatus();
}

Nfa::Fragment SchemaRules::OtherName(const std::vector<Property>& properties, Nfa& nfa) {
  NameTree names;
  for (const Property& property : properties) {
    NameTree* tree = &names;
    for (size_t position = 0; position < property.name.size();)
      tree = &tree->next[NextCharacter(property.name, position)];
    tree->ends = true;
  }
  const Nfa::Fragment text = nfa.Nothing();
  const StateId free = nfa.NewState();
  LeaveNames(names, text.start, free, text.end, nfa);
  nfa.Link(free, nfa.Characters(CharacterSet::Writable()), free);
  nfa.Skip(free, text.end);
  return nfa.Sequence({nfa.Bytes("\""), text, nfa.Bytes("\"")});
}

Nfa::Fragment SchemaRules::Member(Nfa::Fragment name, RuleId value, Nfa& nfa) const {
  return nfa.Sequence({name, Space(nfa), nfa.Bytes(":"), Space(nfa), nfa.CallOf(value), Space(nfa)});
}

SchemaRules::FragmentOr SchemaRules::Object(const Place& schema, Nfa& nfa) {
  std::optional<RuleId> others;
  KVLINK_ASSIGN_OR_RETURN(const std::vector<Property> properties, Properties(schema, &others));
  const Nfa::Fragment object = nfa.Nothing();
  const auto comma = [&] { return nfa.Sequence({nfa.Bytes(","), Space(nfa)}); };
  // Before a property: `none` if it would be the first of the object, `some` if it would not.
  StateId none = nfa.NewState(), some = nfa.NewState();
  nfa.Link(object.start, nfa.Sequence({nfa.Bytes("{"), Space(nfa)}), none);
  for (const Property& property : properties) {
    const StateId next_none = nfa.NewState(), next_some = nfa.NewState(), name = nfa.NewState();
    nfa.Skip(none, name);
    nfa.Link(some, comma(), name);
    nfa.Link(name, Member(nfa.Bytes(JsonString(property.name)), property.value, nfa), next_some);
    if (!property.required) {
      nfa.Skip(none, next_none);
      nfa.Skip(some, next_some);
    }
    none = next_none;
    some = next_some;
  }
  if (others) {
    const auto other = [&] {
      return Member(properties.empty() ? nfa.CallOf(rules_.string) : OtherName(properties, nfa), *others, nfa);
    };
    const StateId behind = nfa.NewState();
    nfa.Link(none, other(), behind);
    nfa.Skip(some, behind);
    nfa.Link(behind, nfa.Sequence({comma(), other()}), behind);
    some = behind;
  }
  nfa.Link(none, nfa.Bytes("}"), object.end);
  nfa.Link(some, nfa.Bytes("}"), object.end);
  return object;
}

}  // namespace kvlink::grammar
