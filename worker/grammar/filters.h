// Filters that keep answers to JSON, or to a JSON schema, for the tokens of one tokenizer. What is compiled for a
// schema is kept for the next request that has it. The grammars of all filters together have a limit.
//
// Thread-safety: all methods. Lifetime: the tokenizer outlives this and every filter; filters may outlive this.
#ifndef KVLINK_WORKER_GRAMMAR_FILTERS_H_
#define KVLINK_WORKER_GRAMMAR_FILTERS_H_

#include <atomic>
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
  static constexpr int64_t kMaxBytes = int64_t{256} << 20;

  // `max_bytes`: of all grammars, kept or in use.
  explicit Filters(const model::Tokenizer* tokenizer, int64_t max_bytes = kMaxBytes)
      : tokenizer_(tokenizer), max_bytes_(max_bytes) {}

  // The first call takes the vocabulary apart, some tenths of a second. INVALID_ARGUMENT: the vocabulary lacks bytes
  // that JSON needs.
  absl::StatusOr<infer::NewTokenFilter> JsonObject();
  // INVALID_ARGUMENT as CompileSchema (schema.h). RESOURCE_EXHAUSTED: other grammars in use leave no room for this one.
  absl::StatusOr<infer::NewTokenFilter> JsonSchema(absl::string_view schema);

 private:
  // `schema`: empty for any object.
  absl::StatusOr<infer::NewTokenFilter> For(absl::string_view schema);
  // Takes the room of a grammar until it is destroyed. RESOURCE_EXHAUSTED.
  absl::StatusOr<std::shared_ptr<Masks>> Admit(Grammar grammar, std::shared_ptr<const Vocabulary> vocabulary);
  bool Take(int64_t bytes);
  std::shared_ptr<const Vocabulary> VocabularyOnce();

  const model::Tokenizer* const tokenizer_;
  const int64_t max_bytes_;
  const std::shared_ptr<std::atomic<int64_t>> bytes_ = std::make_shared<std::atomic<int64_t>>(0);  // grammars have it
  Mutex vocabulary_mutex_;  // held while it is made
  std::shared_ptr<const Vocabulary> vocabulary_ ABSL_GUARDED_BY(vocabulary_mutex_);
  Mutex mutex_;
  std::list<std::pair<std::string, std::shared_ptr<Masks>>> kept_
      ABSL_GUARDED_BY(mutex_);  // by schema, the last used first
};

}  // namespace kvlink::grammar

#endif  // KVLINK_WORKER_GRAMMAR_FILTERS_H_
