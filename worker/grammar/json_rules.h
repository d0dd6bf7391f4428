// What JSON is made of (RFC 8259), as fragments and rules of a grammar.
//
// Not all of JSON, but what every parser reads: white space is nothing, one space, or a line break with at most
// kMaxIndent spaces and tabs, so that no model can go on with blanks; numbers have at most 18 digits before and 20
// behind the point and exponents of at most two, so that they fit into 64 bits; strings hold no half of a surrogate
// pair. Thread-safety: pure functions over the caller's objects.
#ifndef KVLINK_WORKER_GRAMMAR_JSON_RULES_H_
#define KVLINK_WORKER_GRAMMAR_JSON_RULES_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/grammar/grammar.h"
#include "worker/grammar/nfa.h"

namespace kvlink::grammar {

inline constexpr int kMaxIndent = 32;
inline constexpr int kMaxIntegerDigits = 18;
inline constexpr int kMaxFractionDigits = 20;

// Rules that every grammar has.
struct JsonRules {
  RuleId space = 0;
  RuleId string = 0, integer = 0, number = 0, object = 0, array = 0;
  RuleId value = 0;  // any
};
absl::StatusOr<JsonRules> DefineJsonRules(GrammarBuilder& builder);

// A string as it is written most plainly, quotes included. REQUIRES: UTF-8.
std::string JsonString(absl::string_view text);

// An integer, or a number, within bounds; nullopt: none. Numbers with a bound are written without an exponent and with
// so few digits that they are still within it once they are a double.
inline constexpr int64_t kMaxBound = 999'999'999'999;
struct NumberBounds {
  std::optional<int64_t> min, max;            // between -kMaxBound and kMaxBound
  bool above_min = false, below_max = false;  // not these themselves
};
Nfa::Fragment BoundedInteger(Nfa& nfa, const NumberBounds& bounds);
Nfa::Fragment BoundedNumber(Nfa& nfa, const NumberBounds& bounds);

// The grammar of one rule's values, which a space may come before: that is how models begin an answer to a text.
absl::StatusOr<Grammar> FinishJson(GrammarBuilder& builder, RuleId value);
// Any JSON object.
absl::StatusOr<Grammar> JsonObjectGrammar(const ByteSet& bytes = AllBytes());

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_JSON_RULES_H_
