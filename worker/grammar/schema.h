// JSON schemas (draft 2020-12, and what older ones have in common with it) as grammars.
//
// Every text of the grammar is a value that the schema allows, written as json_rules.h says. Not every value can be
// written, where the schema leaves a choice:
// - properties come in the order of the schema, as in OpenAI's structured outputs; those that are not required may be
//   left out; those that are required and not listed come next, and then any others;
// - without "additionalProperties" there are no others if "properties" is given, and likewise no elements behind those
//   of "prefixItems" without "items"; otherwise the standard's `true` holds;
// - without "type", constraints of objects, arrays, strings or numbers say that the value is one;
// - names of properties and strings with a length or a pattern have no escapes but those that they need, and no
//   control characters that only \u00XX could write; a name outside of "properties" may come twice;
// - a number with a bound has no exponent.
//
// Understood: type (also a list), properties, required, additionalProperties, items, prefixItems, minItems, maxItems,
// enum, const, anyOf, oneOf whose alternatives exclude each other, allOf whose parts can be joined, $ref within the
// schema (also to itself), minLength, maxLength, pattern (pattern.h), and integral minimum, maximum, exclusiveMinimum
// and exclusiveMaximum. Annotations are skipped: title, description, default, examples, format and the like. Whatever
// else asks for something is refused.
//
// Thread-safety: pure function.
#ifndef KVLINK_WORKER_GRAMMAR_SCHEMA_H_
#define KVLINK_WORKER_GRAMMAR_SCHEMA_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/grammar/grammar.h"

namespace kvlink::grammar {

inline constexpr size_t kMaxSchemaBytes = size_t{64} << 10;
inline constexpr int kMaxSchemaDepth = 64;      // lists and objects within each other
inline constexpr size_t kMaxEntries = 1000;     // of one list or object
inline constexpr size_t kMaxAlternatives = 64;  // of one anyOf or oneOf

// Texts of these bytes alone. INVALID_ARGUMENT, "#/properties/a/contains: is not supported": what is not JSON, not a
// schema, not understood, allows nothing, or is too large, by its JSON pointer.
absl::StatusOr<Grammar> CompileSchema(absl::string_view schema, const ByteSet& bytes = AllBytes());

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_SCHEMA_H_
