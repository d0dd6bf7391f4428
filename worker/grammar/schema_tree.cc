// Joined schemas are new ones; all others stay where the client wrote them, and are known by their address.
#include "worker/grammar/schema_tree.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/utf8.h"
#include "worker/grammar/schema.h"

namespace kvlink::grammar {
namespace {

constexpr size_t kMaxShownBytes = 200;                   // in messages
constexpr size_t kMaxOwnedBytes = 16 * kMaxSchemaBytes;  // of schemas that are joined
constexpr int kMaxResolved = 64;                         // references and parts within each other
constexpr int64_t kMaxJoined = 4'000'000;                // pairs of entries
constexpr int64_t kMaxCompared = 4'000'000;              // members and values, by Apart

std::string Cut(absl::string_view text) {
  if (text.size() <= kMaxShownBytes) return std::string(text);
  text = text.substr(0, kMaxShownBytes);
  return absl::StrCat(text.substr(0, ValidUtf8Prefix(text)), "...");
}

bool IsAnyOf(absl::string_view name, absl::Span<const absl::string_view> names) {
  return absl::c_linear_search(names, name);
}

bool IsContainer(absl::string_view name) { return name == "$defs" || name == "definitions"; }

// Limits of which the stricter one holds.
bool IsLowerLimit(absl::string_view name) {
  return IsAnyOf(name, {"minLength", "minItems", "minimum", "exclusiveMinimum"});
}
bool IsUpperLimit(absl::string_view name) {
  return IsAnyOf(name, {"maxLength", "maxItems", "maximum", "exclusiveMaximum"});
}

// Members of `part` that `whole` does not have.
bool HasOthers(const Json& part, const Json* whole) {
  if (!part.is_object()) return false;
  for (const auto& [name, value] : part.items()) {
    if (whole == nullptr || !whole->is_object() || whole->find(name) == whole->end()) return true;
  }
  return false;
}

const Json* MemberOf(const Json& object, absl::string_view name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

bool Requires(const Json& schema, const std::string& property) {
  const Json* const required = MemberOf(schema, "required");
  return required != nullptr && required->is_array() && absl::c_linear_search(*required, Json(property));
}

// Adds the entries of a list that another one lacks.
void Unite(const Json& more, Json& list) {
  for (const Json& entry : more) {
    if (!absl::c_linear_search(list, entry)) list.push_back(entry);
  }
}

Json Intersection(const Json& a, const Json& b) {
  Json both = Json::array();
  for (const Json& entry : a) {
    if (absl::c_linear_search(b, entry)) both.push_back(entry);
  }
  return both;
}

Json ListOf(const Json& type) { return type.is_array() ? type : Json::array({type}); }

// Of the types in both lists; an integer is a number, too.
Json CommonTypes(const Json& a, const Json& b) {
  const Json first = ListOf(a), second = ListOf(b);
  Json both = Intersection(first, second);
  const Json integer = "integer", number = "number";
  for (const auto& [list, other] : {std::pair(&first, &second), std::pair(&second, &first)}) {
    const bool common = absl::c_linear_search(*list, integer) && absl::c_linear_search(*other, number) &&
                        !absl::c_linear_search(both, number);
    if (common && !absl::c_linear_search(both, integer)) both.push_back(integer);
  }
  return both;
}

// What the parts of a join say of one keyword. `whole` has it from a part before. False: it cannot be joined.
bool JoinKeyword(const std::string& name, const Json& value, Json& whole) {
  Json& before = whole[name];
  if (before == value) return true;
  if (name == "required" && before.is_array() && value.is_array()) {
    Unite(value, before);
    return true;
  }
  if (name == "properties" && before.is_object() && value.is_object()) {
    for (const auto& [property, schema] : value.items()) {
      const auto found = before.find(property);
      if (found == before.end()) {
        before[property] = schema;
      } else if (*found != schema) {
        *found = Json{{"allOf", Json::array({*found, schema})}};
      }
    }
    return true;
  }
  if (name == "type") {
    before = CommonTypes(before, value);
    return true;
  }
  if (name == "enum" && before.is_array() && value.is_array()) {
    before = Intersection(before, value);
    return true;
  }
  if ((IsLowerLimit(name) || IsUpperLimit(name)) && before.is_number() && value.is_number()) {
    if ((before < value) == IsLowerLimit(name)) before = value;
    return true;
  }
  return false;
}

}  // namespace

std::string PointerBelow(const std::string& pointer, absl::string_view step) {
  if (pointer.size() > kMaxShownBytes) return pointer;
  return Cut(absl::StrCat(pointer, "/", absl::StrReplaceAll(step, {{"~", "~0"}, {"/", "~1"}})));
}

Place Place::At(absl::string_view member) const { return {&*json->find(member), PointerBelow(pointer, member)}; }

Place Place::At(size_t element) const { return {&(*json)[element], PointerBelow(pointer, absl::StrCat(element))}; }

absl::Status Place::Refuse(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(Cut(pointer), ": ", Cut(what)));
}

Keyword KeywordOf(absl::string_view name) {
  if (IsContainer(name) || IsAnyOf(name, {"title", "description", "default", "examples", "example", "format",
                                          "deprecated", "readOnly", "writeOnly", "discriminator", "contentEncoding",
                                          "contentMediaType", "$schema", "$id", "$comment", "$anchor"})) {
    return Keyword::kAnnotation;
  }
  if (IsAnyOf(name, {"$ref", "allOf", "anyOf", "oneOf", "enum", "const", "type"})) return Keyword::kCombines;
  if (IsAnyOf(name, {"properties", "required", "additionalProperties"})) return Keyword::kObject;
  if (IsAnyOf(name, {"items", "prefixItems", "minItems", "maxItems"})) return Keyword::kArray;
  if (IsAnyOf(name, {"minLength", "maxLength", "pattern"})) return Keyword::kString;
  if (IsAnyOf(name, {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})) return Keyword::kNumber;
  return Keyword::kUnsupported;
}

std::vector<std::string> Constraints(const Place& schema) {
  std::vector<std::string> names;
  for (const auto& [name, value] : schema.json->items()) {
    const bool none = name == "uniqueItems" && value == false;
    if (KeywordOf(name) != Keyword::kAnnotation && !none) names.push_back(name);
  }
  return names;
}

uint8_t TypeBitOf(absl::string_view name) {
  if (name == "null") return kNullBit;
  if (name == "boolean") return kBooleanBit;
  if (name == "number" || name == "integer") return kNumberBit;
  if (name == "string") return kStringBit;
  if (name == "array") return kArrayBit;
  return name == "object" ? kObjectBit : 0;
}

uint8_t ValueTypeBit(const Json& value) {
  if (value.is_null()) return kNullBit;
  if (value.is_boolean()) return kBooleanBit;
  if (value.is_number()) return kNumberBit;
  if (value.is_string()) return kStringBit;
  return value.is_array() ? kArrayBit : kObjectBit;
}

absl::StatusOr<std::vector<std::string>> TypeNames(const Place& schema) {
  std::vector<std::string> names;
  if (!schema.Has("type")) {
    const std::vector<std::string> constraints = Constraints(schema);
    const auto has = [&](Keyword kind) {
      return absl::c_any_of(constraints, [&](const std::string& name) { return KeywordOf(name) == kind; });
    };
    if (has(Keyword::kObject)) names.push_back("object");
    if (has(Keyword::kArray)) names.push_back("array");
    if (has(Keyword::kString)) names.push_back("string");
    if (has(Keyword::kNumber)) names.push_back("number");
    if (names.empty()) names = {"object", "array", "string", "number", "boolean", "null"};
    return names;
  }
  const Place type = schema.At("type");
  for (const Json& name : ListOf(*type.json)) {
    if (!name.is_string() || TypeBitOf(name.get_ref<const std::string&>()) == 0) {
      return type.Refuse("must be a type of JSON (object, array, string, number, integer, boolean, null) or a list");
    }
    if (!absl::c_linear_search(names, name.get_ref<const std::string&>())) names.push_back(name.get<std::string>());
  }
  if (absl::c_linear_search(names, "number")) {
    names.erase(std::remove(names.begin(), names.end(), "integer"), names.end());
  }
  return names;
}

absl::StatusOr<Place> SchemaTree::Resolve(const Place& schema) { return Resolve(schema, 0); }

absl::StatusOr<Place> SchemaTree::Resolve(const Place& schema, int depth) {
  if (depth > kMaxResolved) return schema.Refuse("refers to itself, or through too many others");
  if (schema.json->is_boolean()) return schema;
  if (!schema.is_object()) return schema.Refuse("must be a schema: an object or a boolean");
  if (!schema.Has("$ref") && !schema.Has("allOf")) return schema;
  const auto known = resolved_.find(schema.json);
  if (known != resolved_.end()) return known->second;
  std::vector<Place> parts;
  Json rest = Json::object();
  for (const std::string& name : Constraints(schema)) {
    if (name != "$ref" && name != "allOf") rest[name] = *schema.At(name).json;
  }
  if (!rest.empty()) {
    KVLINK_ASSIGN_OR_RETURN(Place own, Own(std::move(rest), schema.pointer));
    parts.push_back(std::move(own));
  }
  if (schema.Has("$ref")) {
    KVLINK_ASSIGN_OR_RETURN(const Place target, Target(schema.At("$ref")));
    KVLINK_ASSIGN_OR_RETURN(Place part, Resolve(target, depth + 1));
    parts.push_back(std::move(part));
  }
  if (schema.Has("allOf")) {
    const Place list = schema.At("allOf");
    if (!list.json->is_array() || list.json->empty()) return list.Refuse("must be a list of schemas");
    for (size_t i = 0; i < list.json->size(); ++i) {
      KVLINK_ASSIGN_OR_RETURN(Place part, Resolve(list.At(i), depth + 1));
      parts.push_back(std::move(part));
    }
  }
  KVLINK_ASSIGN_OR_RETURN(Place joined, Join(parts, schema.pointer));
  resolved_.emplace(schema.json, joined);
  return joined;
}

absl::StatusOr<Place> SchemaTree::Target(const Place& reference) const {
  if (!reference.json->is_string()) return reference.Refuse("must be a string");
  const absl::string_view text = reference.json->get_ref<const std::string&>();
  if (text == "#") return root_;
  if (!absl::StartsWith(text, "#/") || absl::StrContains(text, "%")) {
    return reference.Refuse("must refer to a place in this schema, as \"#/$defs/name\" does");
  }
  Place place = root_;
  for (const absl::string_view part : absl::StrSplit(text.substr(2), '/')) {
    const std::string name = absl::StrReplaceAll(part, {{"~1", "/"}, {"~0", "~"}});
    size_t element = 0;
    if (place.Has(name)) {
      place = place.At(name);
    } else if (place.json->is_array() && absl::SimpleAtoi(name, &element) && element < place.json->size()) {
      place = place.At(element);
    } else {
      return reference.Refuse("refers to a place that this schema does not have");
    }
  }
  return place;
}

absl::StatusOr<Place> SchemaTree::Own(Json json, const std::string& pointer) {
  owned_bytes_ += json.dump(-1, ' ', false, Json::error_handler_t::replace).size();
  owned_.push_back(std::move(json));
  Place place = {&owned_.back(), pointer};
  if (owned_bytes_ > kMaxOwnedBytes) return place.Refuse("takes too much to join allOf, $ref and what is beside them");
  return place;
}

absl::StatusOr<Place> SchemaTree::Join(absl::Span<const Place> parts, const std::string& pointer) {
  std::vector<Place> kept;  // those that say something
  for (const Place& part : parts) {
    if (part.json->is_boolean() && !part.json->get<bool>()) return part;
    if (part.is_object() && !Constraints(part).empty()) kept.push_back(part);
  }
  if (kept.size() == 1) return kept[0];
  Json whole = Json::object();
  for (const Place& part : kept) {
    for (const std::string& name : Constraints(part)) {
      const Json& value = *part.At(name).json;
      const auto before = whole.find(name);
      if (before == whole.end()) {
        whole[name] = value;
      } else if (!MayJoin(*before, value)) {
        return part.At(name).Refuse("takes too much to join with the other parts");
      } else if (!JoinKeyword(name, value, whole)) {
        return part.At(name).Refuse(
            absl::StrCat("cannot be joined with the '", name, "' of the other parts of ", pointer));
      }
    }
  }
  // These speak of what their own part does not list.
  for (const Place& part : kept) {
    const bool open = !part.Has("additionalProperties") || *part.At("additionalProperties").json == true;
    if (!open && whole.find("properties") != whole.end()) {
      const Json* const own = MemberOf(*part.json, "properties");
      if (own != nullptr && !MayJoin(whole["properties"], *own)) {
        return part.At("properties").Refuse("takes too much to join with the other parts");
      }
      if (HasOthers(whole["properties"], own)) {
        return part.At("additionalProperties").Refuse(absl::StrCat("does not list all properties of ", pointer));
      }
    }
    if (part.Has("items") && !part.Has("prefixItems") && whole.find("prefixItems") != whole.end()) {
      return part.At("items").Refuse(absl::StrCat("cannot be joined with the 'prefixItems' of ", pointer));
    }
  }
  return Own(std::move(whole), pointer);
}

bool SchemaTree::MayJoin(const Json& a, const Json& b) {
  joined_ += static_cast<int64_t>(a.size() * b.size());
  return joined_ <= kMaxJoined;
}

absl::StatusOr<Place> SchemaTree::Requiring(const Place& schema, const std::string& property) {
  Json required = {{"required", Json::array({property})}};
  KVLINK_ASSIGN_OR_RETURN(const Place part, Own(std::move(required), schema.pointer));
  return Join({schema, part}, schema.pointer);
}

std::optional<absl::Span<const Json>> SchemaTree::Values(const Place& schema) {
  if (schema.Has("const")) return absl::MakeConstSpan(schema.At("const").json, 1);
  if (!schema.Has("enum") || !schema.At("enum").json->is_array()) return std::nullopt;
  return absl::MakeConstSpan(schema.At("enum").json->get_ref<const Json::array_t&>());
}

uint8_t SchemaTree::Types(const Place& schema, int depth) {
  if (++compared_ > kMaxCompared || depth > kMaxSchemaDepth) return kAllTypes;
  const absl::StatusOr<Place> resolved = Resolve(schema);
  if (!resolved.ok()) return kAllTypes;
  if (resolved->json->is_boolean()) return resolved->json->get<bool>() ? uint8_t{kAllTypes} : uint8_t{0};
  compared_ += static_cast<int64_t>(resolved->json->size());
  uint8_t types = 0;
  if (const auto values = Values(*resolved)) {
    compared_ += static_cast<int64_t>(values->size());
    for (const Json& value : *values) types |= ValueTypeBit(value);
    return types;
  }
  for (const char* const name : {"anyOf", "oneOf"}) {
    if (!resolved->Has(name) || !resolved->At(name).json->is_array()) continue;
    const Place list = resolved->At(name);
    for (size_t i = 0; i < list.json->size() && i < kMaxAlternatives; ++i) types |= Types(list.At(i), depth + 1);
    return types;
  }
  const auto names = TypeNames(*resolved);
  if (!names.ok()) return kAllTypes;
  for (const std::string& name : *names) types |= TypeBitOf(name);
  return types;
}

std::optional<std::string> SchemaTree::Apart(const Place& a, const Place& b, int depth) {
  const uint8_t types = Types(a, 0), others = Types(b, 0);
  if ((types & others) == 0) return "";
  const absl::StatusOr<Place> first = Resolve(a), second = Resolve(b);
  if (!first.ok() || !second.ok() || depth > 1 || !first->is_object() || !second->is_object()) return std::nullopt;
  const auto values = Values(*first), other_values = Values(*second);
  if (values && other_values) {
    compared_ += static_cast<int64_t>(values->size() * other_values->size());
    if (compared_ > kMaxCompared) return std::nullopt;
    const bool common =
        absl::c_any_of(*values, [&](const Json& value) { return absl::c_linear_search(*other_values, value); });
    return common ? std::nullopt : std::optional<std::string>("");
  }
  if (types != kObjectBit || others != kObjectBit || !first->Has("properties") || !second->Has("properties") ||
      !first->At("properties").is_object() || !second->At("properties").is_object()) {
    return std::nullopt;
  }
  const Place mine = first->At("properties"), theirs = second->At("properties");
  // Each is searched for among all, one after another.
  compared_ += static_cast<int64_t>(mine.json->size() * theirs.json->size() / 16);
  std::optional<std::string> optional;  // a property that only some values have
  for (const auto& [name, schema] : mine.json->items()) {
    if (!theirs.Has(name) || Apart(mine.At(name), theirs.At(name), depth + 1) != "") continue;
    if (Requires(*first->json, name) && Requires(*second->json, name)) return "";
    if (!optional) optional = name;
  }
  return optional;
}

}  // namespace kvlink::grammar
