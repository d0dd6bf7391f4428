// What the question generator writes with: parts of names, relations, questions and filler, once for each split. The
// splits share no name, no wording of a relation, no question template and no filler sentence; all names of one begin
// with other letters than those of the other. Private to worker/data.
// Thread-safety: constants.
#ifndef KVLINK_WORKER_DATA_LANGUAGE_H_
#define KVLINK_WORKER_DATA_LANGUAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/data/question_generator.h"
#include "worker/data/random.h"

namespace kvlink::data {

enum class Type {
  kPerson,
  kTown,
  kCompany,
  kGood,  // an ordinary word for something that is traded; has no document of its own
};

// A fact about a subject. Each subject has at most one object of a relation.
struct Relation {
  Type subject;
  Type object;
  absl::string_view phrase;                   // "the founder of {s}"; {s} may be another phrase
  std::vector<absl::string_view> statements;  // sentences with {s} and {o}
};

// A number about a subject, for comparisons.
struct Quantity {
  Type subject;
  int64_t min;
  int64_t max;
  absl::string_view statement;        // with {s} and {n}
  absl::string_view smaller, larger;  // "opened earlier", "opened later"
};

// A name is one choice from each list, joined.
using NameParts = std::vector<std::vector<absl::string_view>>;

struct Language {
  NameParts given, surname;  // of a person, joined by a space
  NameParts town, company;
  std::vector<absl::string_view> goods;
  std::vector<Relation> relations;
  std::vector<Quantity> quantities;
  // With {p}, a phrase, and {Who} or {who}: "Who" or "What".
  std::vector<absl::string_view> questions;
  // With {a}, {b} and {c}: which of two has the smaller or larger number.
  absl::string_view comparison;
  // First sentences of a document, with {s}.
  absl::string_view person_opening, town_opening, company_opening;
  // In place of a name.
  absl::string_view person_again, town_again, company_again;
  // Sentences with {time}, {adjective}, {noun}, {verb} and {place}, one of the words below each.
  std::vector<absl::string_view> fillers;
  std::vector<absl::string_view> times, adjectives, nouns, verbs, places;
};

const Language& LanguageOf(Split split);

// A part of a name of random letters, in lower case. It ends in a letter in which no part of a name and no good of the
// split `test` ends, and is no part of what the split `tune` writes around names.
std::string LetterWord(Random& random);

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_LANGUAGE_H_
