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

  void Allowed(absl::Span<uint32_t> bits) override {
    if (lost_) return std::fill(bits.begin(), bits.end(), 0);
    masks_->Allowed(stacks_, bits);
  }
  void Accept(int32_t token) override {
    lost_ = lost_ || !Write(masks_->vocabulary().Bytes(token));
    stacks_.Settle();
  }
  bool MayEnd() const override { return !lost_ && stacks_.ended(); }

 private:
  // A mask looks at one stack after another. Of very many together, those that the bytes fit may have been left out;
  // then one of them goes on by itself.
  bool Write(absl::string_view bytes) {
    if (stacks_.PushAll(bytes)) return true;
    int64_t steps = Masks::kMaxSteps;
    for (const Stacks::Top& top : stacks_.tops()) {
      Stacks alone = stacks_;
      alone.Only(top);
      if (alone.PushAll(bytes)) {
        stacks_ = std::move(alone);
        return true;
      }
      steps -= alone.steps() - stacks_.steps();
      if (steps <= 0) break;
    }
    return false;
  }

  const std::shared_ptr<Masks> masks_;
  Stacks stacks_;
  bool lost_ = false;  // where the answer stands: it fails
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
  KVLINK_ASSIGN_OR_RETURN(std::shared_ptr<Masks> masks, Admit(std::move(grammar), vocabulary));
  MutexLock lock(&mutex_);
  kept_.remove_if(is_it);
  kept_.emplace_front(schema, masks);
  if (kept_.size() > kMaxGrammars) kept_.pop_back();
  return maker(std::move(masks));
}

bool Filters::Take(int64_t bytes) {
  if (bytes_->fetch_add(bytes) + bytes <= max_bytes_) return true;
  *bytes_ -= bytes;
  return false;
}

absl::StatusOr<std::shared_ptr<Masks>> Filters::Admit(Grammar grammar, std::shared_ptr<const Vocabulary> vocabulary) {
  const int64_t bytes = grammar.bytes();
  if (!Take(bytes)) {
    {
      MutexLock lock(&mutex_);
      kept_.remove_if([](const auto& kept) { return kept.second.use_count() == 1; });  // nobody uses them
    }
    if (!Take(bytes)) {
      return absl::ResourceExhaustedError(
          "the JSON schemas of other requests take all the memory that there is for them; try again later");
    }
  }
  auto* const masks = new Masks(std::make_shared<const Grammar>(std::move(grammar)), std::move(vocabulary));
  return std::shared_ptr<Masks>(masks, [bytes, taken = bytes_](const Masks* ended) {
    delete ended;
    *taken -= bytes;
  });
}

std::shared_ptr<const Vocabulary> Filters::VocabularyOnce() {
  MutexLock lock(&vocabulary_mutex_);
  if (vocabulary_ == nullptr) vocabulary_ = std::make_shared<const Vocabulary>(*tokenizer_);
  return vocabulary_;
}

}  // namespace kvlink::grammar
