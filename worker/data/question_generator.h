// Multi-document questions over invented entities, so that no model knows an answer and each question has exactly one.
//
// An item is a pure function of (options, kind, index) and the same on every machine: items can be made in any order,
// by several processes, and again after an interruption. The splits `tune` and `test` share no name, no wording of a
// relation, no question template and no filler sentence (docs/quality-of-answers.md).
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_DATA_QUESTION_GENERATOR_H_
#define KVLINK_WORKER_DATA_QUESTION_GENERATOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/example.h"

namespace kvlink::data {

// Part of the settings of a results file. To be increased with every change of what MakeItem returns.
inline constexpr int kGeneratorVersion = 1;

enum class Split { kTune, kTest };
absl::string_view SplitName(Split split);

enum class Kind {
  kLookup,        // one fact of one document; the others state the same relation of other subjects
  kHopsInside,    // two facts of one document: the founder of the employer of X
  kHopsAcross,    // two facts of two documents
  kChain,         // two to four facts, each of another document
  kCompare,       // which of two subjects, each with its document, has the larger or smaller number
  kUnanswerable,  // a lookup whose fact stands nowhere; the answer is kUnknown
  kDistractors,   // a lookup among people who share first names or surnames with the one meant
  kContinued,     // a lookup in a document that goes on about the subject of the one before, without its name
};
absl::Span<const Kind> AllKinds();
absl::string_view KindName(Kind kind);
// INVALID_ARGUMENT: lists the kinds.
absl::StatusOr<Kind> ParseKind(absl::string_view name);

// The answer of an unanswerable question, and all that are accepted: other ways to say that the documents do not say.
inline constexpr absl::string_view kUnknown = "unknown";
std::vector<std::string> UnknownAnswers();

// What names are made of.
enum class Names {
  kSyllables,  // a few beginnings and endings of the split, in all combinations; goods are ordinary words
  // Random letters, goods too, so that names cannot be known from other items but have to be copied. No part of such a
  // name is one of a name or good of the split `test`. Of the split `tune` alone.
  kLetters,
};

inline constexpr int64_t kMinDocuments = 2, kMaxDocuments = 32;
inline constexpr int64_t kMinDocumentTokens = 50, kMaxDocumentTokens = 8000;
inline constexpr int64_t kMaxMore = 64;

struct ItemOptions {
  Split split = Split::kTest;
  uint64_t seed = 1;
  int64_t documents = 5;  // a chain has at most as many facts
  // Approximate length of each document: three words for four tokens, as byte-level vocabularies take for this text.
  // Facts are never left out, so that a very short document may be longer.
  int64_t document_tokens = 200;
  // The most further questions: for facts, and for facts about their objects, of all documents. Nothing else of the
  // item depends on it.
  int64_t more = 0;
  Names names = Names::kSyllables;
};

// With answers, stem, candidates and gold: wrong candidates are of the answer's type and occur in the documents; of
// kUnanswerable, the document about the question's subject is gold.
struct Item : Question {
  std::string id;  // unique for equal options: "lookup-17"
  Kind kind = Kind::kLookup;
  Split split = Split::kTest;
};

// INVALID_ARGUMENT: options outside the limits above, names of letters of the split `test`, or a negative index.
absl::StatusOr<Item> MakeItem(const ItemOptions& options, Kind kind, int64_t index);

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_QUESTION_GENERATOR_H_
