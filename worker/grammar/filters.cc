// A schema is compiled outside of the lock: two requests that come with it at once both compile it, and one copy is
// kept.
#include "worker/grammar/filters.h"

#include <algorithm>

#include "base/status.h"
#include "worker/grammar/json_rules.h"
#include "worker/grammar/schema.h"

namespace kvlink::grammar {
namespace {

class GrammarFilter final : public infer::TokenFilter {
 public:
  explicit GrammarFilter(std::shared_ptr<Masks> masks) : masks_(std::move(masks)), stacks_(&masks_->grammar()) {}

  void Allowed(absl::Span<uint32_t> bits) override { masks_->Allowed(stacks_, bits); }
  void Accept(int32_t token) override {
    for (const char byte : masks_->vocabulary().Bytes(token)) stacks_.Push(static_cast<uint8_t>(byte));
    stacks_.Settle();
  }
  bool MayEnd() const override { return stacks_.ended(); }

 private:
  const std::shared_ptr<Masks> masks_;
  Stacks stacks_;
};

}  // namespace

absl::StatusOr<infer::NewTokenFilter> Filters::JsonObject() { return For(""); }

absl::StatusOr<infer::NewTokenFilter> Filters::JsonSchema(absl::string_view schema) {
  if (schema.empty()) return absl::InvalidArgumentError("is empty");
  return For(schema);
}

absl::StatusOr<infer::NewTokenFilter> Filters::For(absl::string_view schema) {
  const auto maker = [](std::shared_ptr<Masks> masks) -> infer::NewTokenFilter {
    return [masks = std::move(masks)] { return std::make_shared<GrammarFilter>(masks); };
  };
  const auto is_it = [&](const auto& kept) { return kept.first == schema; };
  {
    MutexLock lock(&mutex_);
    const auto found = std::find_if(kept_.begin(), kept_.end(), is_it);
    if (found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
      return maker(found->second);
    }
  }
  const std::shared_ptr<const Vocabulary> vocabulary = VocabularyOnce();
  const ByteSet& bytes = vocabulary->bytes();
  KVLINK_ASSIGN_OR_RETURN(Grammar grammar, schema.empty() ? JsonObjectGrammar(bytes) : CompileSchema(schema, bytes));
  auto masks = std::make_shared<Masks>(std::make_shared<const Grammar>(std::move(grammar)), vocabulary);
  MutexLock lock(&mutex_);
  kept_.remove_if(is_it);
  kept_.emplace_front(schema, masks);
  if (kept_.size() > kMaxGrammars) kept_.pop_back();
  return maker(std::move(masks));
}

std::shared_ptr<const Vocabulary> Filters::VocabularyOnce() {
  MutexLock lock(&vocabulary_mutex_);
  if (vocabulary_ == nullptr) vocabulary_ = std::make_shared<const Vocabulary>(*tokenizer_);
  return vocabulary_;
}

}  // namespace kvlink::grammar
