// Regular expressions of JSON schemas (ECMA-262, in the part that is regular and that we write exactly): characters,
// classes, groups, alternatives and counts, ^ and $ at the ends. Thread-safety: pure function.
#ifndef KVLINK_WORKER_GRAMMAR_PATTERN_H_
#define KVLINK_WORKER_GRAMMAR_PATTERN_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/grammar/nfa.h"

namespace kvlink::grammar {

inline constexpr size_t kMaxPatternBytes = 1024;

// What a JSON string holds between its quotes that the pattern, UTF-8, is found in. INVALID_ARGUMENT: it is malformed,
// or has what is not supported, which is named: assertions in the middle, back-references, properties of Unicode.
absl::StatusOr<Nfa::Fragment> PatternFragment(absl::string_view pattern, Nfa& nfa);

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_PATTERN_H_
