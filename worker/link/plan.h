// Turns documents and a question into plans by a linker. A plan gives the position of every token, the documents read
// from their encodings, and the fresh tokens (computed by this request). A linker that chooses tokens takes two stages,
// each with a plan: the first is computed to observe the documents' tokens, the second computes the chosen ones again.
// Nothing here computes: worker/infer carries plans out. Thread-safety: pure functions and plain values.
#ifndef KVLINK_WORKER_LINK_PLAN_H_
#define KVLINK_WORKER_LINK_PLAN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/files/config.h"
#include "worker/link/linker.h"
#include "worker/link/profile.h"
#include "worker/text/template/chat_template.h"
#include "worker/text/tokenizer.h"

namespace kvlink::link {

// A model's chat template, ChatML if it has none, and the special tokens that the template may write.
struct ModelChat {
  std::unique_ptr<model::ChatTemplate> chat_template;
  model::ChatOptions options;
};
// `source`: the template, or empty. Errors of ChatTemplate::Parse.
absl::StatusOr<ModelChat> OpenChat(absl::string_view source, const model::ModelConfig& config,
                                   const model::Tokenizer& tokenizer);

// A tokenised prompt around the documents: the tokens before the first document and after the last.
struct PromptTokens {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};
// One message of a chat; all of its text is untrusted.
struct Turn {
  std::string role;  // "system", "user", "assistant"
  std::string text;
};
// Renders the chat with the documents where the profile places them: after the system turn, or inside the first user
// turn before its text. Tokenises each side with EncodeSpans. BOS comes first exactly once if the tokenizer has one and
// the template or model asks for it. INVALID_ARGUMENT: no turn of a user. FAILED_PRECONDITION: the template refuses the
// chat, or drops the user's text.
absl::StatusOr<PromptTokens> MakePrompt(const model::Tokenizer& tokenizer, const model::ChatTemplate& chat,
                                        const model::ChatOptions& options, const LinkProfile& profile,
                                        absl::Span<const Turn> turns);
// The same for a system text, unless it is empty, and a question.
absl::StatusOr<PromptTokens> MakePrompt(const model::Tokenizer& tokenizer, const model::ChatTemplate& chat,
                                        const model::ChatOptions& options, const LinkProfile& profile,
                                        absl::string_view system, absl::string_view question);

// The tokens of a document under the profile's template, in pieces of at most `most` (0: in one); none of an empty one.
// Errors of Tokenizer::Encode.
absl::StatusOr<std::vector<std::vector<int32_t>>> DocumentTokens(const model::Tokenizer& tokenizer,
                                                                 const LinkProfile& profile, absl::string_view title,
                                                                 absl::string_view text, int64_t most);

struct PlacedDocument {
  int64_t document = 0;  // index into the request's documents
  int64_t offset = 0;    // position of its encoding's first token
  // Bits of the encoding's tokens that fresh ones replace, as KvRead::hidden; empty: of none.
  std::vector<uint64_t> hidden;
};

// What a stage observes of the documents' tokens, for the next stage to choose from.
enum class Observe : uint8_t {
  kNothing,    // the last stage: the answer follows it
  kDeviation,  // how far keys and values computed again are from the stored ones, in the stage's last layer
  kKeyMass,    // the attention that the fresh tokens of the question give, summed over them, heads and layers
};
// A number for each token of the encoding of each of the request's documents; 0 for a token that was not observed.
using Observed = std::vector<std::vector<float>>;

// One stage. Each of the positions 0..length-1 has one token, fresh or read; fresh tokens ascend in position.
struct LinkPlan {
  std::vector<int32_t> fresh_tokens;      // vocabulary ids; ids >= vocab are link embedding rows (id - vocab)
  std::vector<int64_t> fresh_positions;   // [fresh_tokens]
  std::vector<int64_t> recomputed;        // indices of fresh tokens that are documents' own, ascending
  std::vector<PlacedDocument> documents;  // read from encodings or compared with them, ascending offset
  int64_t length = 0;
  bool packet = false;  // the encodings are inside the profile's wrapper, whose tokens stand around the document's own
  Observe observe = Observe::kNothing;
  int64_t question = 0;  // index of the first fresh token after the documents; kKeyMass: from there on they observe
  int64_t layers = 0;    // that are computed, of the last one only keys and values; 0: all
  int64_t kept = 0;      // fresh tokens, from the first, whose keys and values are those of the stage before
};

struct PlanInput {
  Linker linker = Linker::kConcat;
  const LinkProfile* profile = nullptr;
  int64_t vocab = 0;
  int64_t context = 0;        // maximum number of positions
  int64_t answer_tokens = 1;  // room to leave in the context
  PromptTokens prompt;
  std::vector<absl::Span<const int32_t>> documents;  // tokens of each, in order
  // [documents] or empty: those that are read from no encoding. All their tokens are fresh, as with kFull, and no
  // wrapper stands around them; links and markers stay where they are.
  std::vector<bool> text;
  bool allow_untrained_links = false;  // measurements only
};

// The stages of one request: a plan that observes something is followed by another, which depends on it.
class Stages {
 public:
  // INVALID_ARGUMENT: no room left for question or answer (says by how many tokens), more documents than slots, an
  // empty document, a linker whose parts contradict each other. FAILED_PRECONDITION: kLinks with a profile that has no
  // trained links, a packet with one that has no wrapper. What the input refers to must outlive the stages.
  static absl::StatusOr<Stages> Create(PlanInput input);
  // Fresh tokens of the largest plan, at most.
  int64_t max_fresh_tokens() const;
  // The next plan. `observed`: by the previous one; nothing for the first. The last plan observes nothing.
  LinkPlan Next(const Observed& observed);

 private:
  enum class State : uint8_t { kObserving, kAnswering };  // what the next stage is for

  Stages(PlanInput input, State state);
  LinkPlan Deviation() const;
  LinkPlan KeyMass() const;
  LinkPlan Answer(const Observed& observed) const;

  PlanInput input_;
  State state_;
};

}  // namespace kvlink::link

#endif  // KVLINK_WORKER_LINK_PLAN_H_
