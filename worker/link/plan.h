// Linkers: turn documents and a question into a plan that gives the position of every token, the documents read from
// their encodings, and the fresh tokens (computed by this request). Thread-safety: pure functions and plain values.
#ifndef KVLINK_WORKER_LINK_PLAN_H_
#define KVLINK_WORKER_LINK_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/link/profile.h"
#include "worker/text/template/chat_template.h"
#include "worker/text/tokenizer.h"

namespace kvlink::link {

struct Linker {
  enum Base : uint8_t {
    kConcat,  // documents from their encodings, shifted to their offset
    kLinks,   // the same, with trained link tokens after each document
    kFull,    // everything fresh: an ordinary prefill, every token sees everything before it
  };
  Base base = kConcat;
  // The first tokens of every document but the first, computed again at their place in the prompt; not with kFull. A
  // document's first tokens attract attention because nothing precedes them when it is encoded (EPIC, arXiv
  // 2410.15332).
  int64_t head = 0;

  Linker() = default;
  Linker(Base of) : base(of) {}  // NOLINT(google-explicit-constructor): a base alone is a linker
  Linker(Base of, int64_t head_tokens) : base(of), head(head_tokens) {}
  bool operator==(const Linker&) const = default;
};
// Terms joined by `+`: one of concat, links and full, and head-K (K from 1). INVALID_ARGUMENT: says what is wrong.
absl::StatusOr<Linker> ParseLinker(absl::string_view name);
// As ParseLinker reads it: concat, links, full, head-8, links+head-8.
std::string LinkerName(Linker linker);

// A tokenised prompt around the documents: the tokens before the first document and after the last.
struct PromptTokens {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};
// Renders the chat with the documents where the profile places them, and tokenises each side with EncodeSpans. BOS
// comes first exactly once if the tokenizer has one and the template or model asks for it.
absl::StatusOr<PromptTokens> MakePrompt(const model::Tokenizer& tokenizer, const model::ChatTemplate& chat,
                                        const model::ChatOptions& options, const LinkProfile& profile,
                                        absl::string_view system, absl::string_view question);

struct PlacedDocument {
  int64_t document = 0;  // index into the request's documents
  int64_t offset = 0;    // position of its first token
  // Bits of tokens that fresh ones replace, as KvRead::hidden; empty: of none.
  std::vector<uint64_t> hidden;
};

// Each of the positions 0..length-1 has one token, fresh or read; fresh tokens ascend in position.
struct LinkPlan {
  std::vector<int32_t> fresh_tokens;      // vocabulary ids; ids >= vocab are link embedding rows (id - vocab)
  std::vector<int64_t> fresh_positions;   // [fresh_tokens]
  std::vector<PlacedDocument> documents;  // read from encodings, ascending offset; empty under kFull
  int64_t length = 0;
};

struct PlanInput {
  Linker linker = Linker::kConcat;
  const LinkProfile* profile = nullptr;
  int64_t vocab = 0;
  int64_t context = 0;        // maximum number of positions
  int64_t answer_tokens = 1;  // room to leave in the context
  PromptTokens prompt;
  std::vector<absl::Span<const int32_t>> documents;  // tokens of each, in order
  bool allow_untrained_links = false;                // measurements only
};
// INVALID_ARGUMENT: no room left for question or answer (says by how many tokens), more documents than slots, an empty
// document, a head with kFull. FAILED_PRECONDITION: kLinks with a profile that has no trained links.
absl::StatusOr<LinkPlan> MakePlan(const PlanInput& input);

}  // namespace kvlink::link

#endif  // KVLINK_WORKER_LINK_PLAN_H_
