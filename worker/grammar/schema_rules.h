// Makes the rules of a grammar from the schemas of a tree. Private to worker/grammar.
//
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_GRAMMAR_SCHEMA_RULES_H_
#define KVLINK_WORKER_GRAMMAR_SCHEMA_RULES_H_

#include <deque>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/grammar/grammar.h"
#include "worker/grammar/json_rules.h"
#include "worker/grammar/nfa.h"
#include "worker/grammar/schema_tree.h"

namespace kvlink::grammar {

class SchemaRules {
 public:
  SchemaRules(const Json* root, const ByteSet& bytes) : tree_(root), builder_(bytes) {}
  absl::StatusOr<Grammar> Compile();

 private:
  using FragmentOr = absl::StatusOr<Nfa::Fragment>;
  struct Property {
    std::string name;
    RuleId value = 0;
    bool required = false;
  };

  // The rule of a schema's values, which is defined later.
  absl::StatusOr<RuleId> RuleOf(const Place& schema);
  // Of a schema that Resolve returned.
  FragmentOr Values(const Place& schema, Nfa& nfa);
  FragmentOr Alternatives(const Place& schema, const std::vector<std::string>& constraints, Nfa& nfa);
  absl::StatusOr<std::vector<Place>> Exclusive(std::vector<Place> alternatives);
  FragmentOr Listed(const Place& schema, const std::vector<std::string>& constraints, Nfa& nfa);
  // A value as it is, with white space where JSON has it. Within a schema, so its depth is bounded.
  Nfa::Fragment Literal(const Json& value, Nfa& nfa);
  FragmentOr OfType(const std::string& type, const Place& schema, Nfa& nfa);
  FragmentOr String(const Place& schema, Nfa& nfa);
  FragmentOr Number(const std::string& type, const Place& schema, Nfa& nfa);
  FragmentOr Array(const Place& schema, Nfa& nfa);
  FragmentOr Object(const Place& schema, Nfa& nfa);
  // The properties that are named, in order, and the rule of others, if there may be some.
  absl::StatusOr<std::vector<Property>> Properties(const Place& schema, std::optional<RuleId>* others);
  // Marks the properties that are required, and adds those that are not listed.
  absl::Status AddRequired(const Place& schema, std::optional<RuleId> others, std::vector<Property>& properties) const;
  // The rule of what is behind or beside what a schema lists. nullopt: nothing.
  absl::StatusOr<std::optional<RuleId>> Rest(const Place& schema, const char* member, bool otherwise);
  // A name other than these, in quotes.
  static Nfa::Fragment OtherName(const std::vector<Property>& properties, Nfa& nfa);
  Nfa::Fragment Member(Nfa::Fragment name, RuleId value, Nfa& nfa) const;
  Nfa::Fragment Space(Nfa& nfa) const { return nfa.CallOf(rules_.space); }

  SchemaTree tree_;
  GrammarBuilder builder_;
  JsonRules rules_;
  absl::flat_hash_map<const Json*, RuleId> known_;
  std::deque<std::pair<Place, RuleId>> open_;  // to be defined
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_SCHEMA_RULES_H_
