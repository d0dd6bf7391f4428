// The schemas within a schema: where they are, what $ref and allOf make of them, what they can be told apart by.
// Private to worker/grammar.
//
// Thread-safety: one thread at a time. Lifetime: the root outlives the tree, and the tree every place in it.
#ifndef KVLINK_WORKER_GRAMMAR_SCHEMA_TREE_H_
#define KVLINK_WORKER_GRAMMAR_SCHEMA_TREE_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"

namespace kvlink::grammar {

using Json = nlohmann::ordered_json;

// The JSON pointer of a member or an element, no longer than a message shows: the names in a schema may be long.
std::string PointerBelow(const std::string& pointer, absl::string_view step);

// A value of the schema and its JSON pointer, "#/properties/a".
struct Place {
  const Json* json = nullptr;
  std::string pointer;

  bool is_object() const { return json->is_object(); }
  bool Has(absl::string_view member) const { return json->is_object() && json->find(member) != json->end(); }
  // REQUIRES: Has(member).
  Place At(absl::string_view member) const;
  Place At(size_t element) const;
  // INVALID_ARGUMENT naming the place.
  absl::Status Refuse(absl::string_view what) const;
};

// What a keyword means to us.
enum class Keyword : uint8_t {
  kAnnotation,  // constrains nothing
  kCombines,    // $ref, allOf, anyOf, oneOf, enum, const, type: for values of any type
  kObject,
  kArray,
  kString,
  kNumber,
  kUnsupported,
};
Keyword KeywordOf(absl::string_view name);
// Those that constrain something.
std::vector<std::string> Constraints(const Place& schema);

class SchemaTree {
 public:
  explicit SchemaTree(const Json* root) : root_{root, "#"} {}

  const Place& root() const { return root_; }
  // The same schema without $ref and allOf: a boolean, or an object. INVALID_ARGUMENT: neither; a reference that leads
  // nowhere or to itself; parts that cannot be joined.
  absl::StatusOr<Place> Resolve(const Place& schema);
  // What is allowed by all parts. INVALID_ARGUMENT as Resolve.
  absl::StatusOr<Place> Join(absl::Span<const Place> parts, const std::string& pointer);
  // The same schema, of objects, with another property that is required.
  absl::StatusOr<Place> Requiring(const Place& schema, const std::string& property);

  // A schema of our own making. INVALID_ARGUMENT: there are too many.
  absl::StatusOr<Place> Own(Json json, const std::string& pointer);

  // How values of one schema are told from those of another: they have no value in common (""), or none that has this
  // property. nullopt: perhaps not at all.
  std::optional<std::string> Apart(const Place& a, const Place& b) { return Apart(a, b, 0); }

 private:
  absl::StatusOr<Place> Resolve(const Place& schema, int depth);
  absl::StatusOr<Place> Target(const Place& reference) const;
  std::optional<std::string> Apart(const Place& a, const Place& b, int depth);
  // The only values that a schema allows; nullopt: others, too.
  static std::optional<absl::Span<const Json>> Values(const Place& schema);
  // The types of its values, as bits.
  uint8_t Types(const Place& schema, int depth);

  const Place root_;
  // Whether two lists or objects may still be compared entry by entry to join schemas.
  bool MayJoin(const Json& a, const Json& b);

  std::deque<Json> owned_;  // joined schemas
  size_t owned_bytes_ = 0;
  int64_t joined_ = 0;    // entries compared by Join
  int64_t compared_ = 0;  // by Apart, which gives up at some time
  absl::flat_hash_map<const Json*, Place> resolved_;
};

// Types of JSON, as bits. An integer is a number.
enum TypeBit : uint8_t {
  kNullBit = 1,
  kBooleanBit = 2,
  kNumberBit = 4,
  kStringBit = 8,
  kArrayBit = 16,
  kObjectBit = 32,
  kAllTypes = 63,
};
// The names that `type` may have, "integer" among them; those that the constraints suggest, if there is no `type`; all
// but "integer" if they suggest none. INVALID_ARGUMENT naming the place.
absl::StatusOr<std::vector<std::string>> TypeNames(const Place& schema);
uint8_t TypeBitOf(absl::string_view name);
uint8_t ValueTypeBit(const Json& value);

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_SCHEMA_TREE_H_
