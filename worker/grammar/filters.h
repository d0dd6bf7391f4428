// Filters that keep answers to JSON, or to a JSON schema, for the tokens of one tokenizer. What is compiled for a
// schema is kept for the next request that has it.
//
// Thread-safety: all methods. Lifetime: the tokenizer outlives this and every filter; filters may outlive this.
#ifndef KVLINK_WORKER_GRAMMAR_FILTERS_H_
#define KVLINK_WORKER_GRAMMAR_FILTERS_H_

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "worker/grammar/masks.h"
#include "worker/infer/token_filter.h"
#include "worker/text/tokenizer.h"

namespace kvlink::grammar {

class Filters {
 public:
  // Grammars that are kept, those used last.
  static constexpr size_t kMaxGrammars = 16;

  explicit Filters(const model::Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  // The first call takes the vocabulary apart, some tenths of a second. INVALID_ARGUMENT: the vocabulary lacks bytes
  // that JSON needs.
  absl::StatusOr<infer::NewTokenFilter> JsonObject();
  // INVALID_ARGUMENT as CompileSchema (schema.h).
  absl::StatusOr<infer::NewTokenFilter> JsonSchema(absl::string_view schema);

 private:
  // `schema`: empty for any object.
  absl::StatusOr<infer::NewTokenFilter> For(absl::string_view schema);
  std::shared_ptr<const Vocabulary> VocabularyOnce();

  const model::Tokenizer* const tokenizer_;
  Mutex vocabulary_mutex_;  // held while it is made
  std::shared_ptr<const Vocabulary> vocabulary_ ABSL_GUARDED_BY(vocabulary_mutex_);
  Mutex mutex_;
  std::list<std::pair<std::string, std::shared_ptr<Masks>>> kept_
      ABSL_GUARDED_BY(mutex_);  // by schema, the last used first
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_FILTERS_H_
