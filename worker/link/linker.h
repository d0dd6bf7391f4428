// Linkers: how documents are joined to a prompt, which of their tokens are read from encodings, and which are computed
// again at their place. Thread-safety: pure functions and plain values.
#ifndef KVLINK_WORKER_LINK_LINKER_H_
#define KVLINK_WORKER_LINK_LINKER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::link {

struct Linker {
  enum Base : uint8_t {
    kConcat,  // documents from their encodings, shifted to their offset
    kLinks,   // the same, with trained link tokens after each document
    kFull,    // everything fresh: an ordinary prefill, every token sees everything before it
  };
  // How the tokens to compute again are chosen, beside the heads. Each takes a stage of its own (plan.h).
  enum Choice : uint8_t {
    kNone,
    // Those whose keys and values deviate most from the stored ones once all have been computed through the first two
    // layers (CacheBlend, arXiv 2405.16444).
    kBlend,
    kProphet,  // those that the question attends to most (ProphetKV)
  };
  Base base = kConcat;
  // The first tokens of every document but the first, computed again at their place in the prompt; not with kFull. A
  // document's first tokens attract attention because nothing precedes them when it is encoded (EPIC, arXiv
  // 2410.15332).
  int64_t head = 0;
  // Documents from encodings inside the profile's wrapper, instead of those of the documents alone; not with kFull.
  bool packet = false;
  Choice choice = kNone;  // not with kFull
  int64_t percent = 0;    // of the documents' tokens, 0 to 100: how many are chosen, rounded up; 0 with kNone

  Linker() = default;
  Linker(Base of) : base(of) {}  // NOLINT(google-explicit-constructor): a base alone is a linker
  Linker(Base of, int64_t head_tokens, Choice chosen = kNone, int64_t percent_chosen = 0)
      : base(of), head(head_tokens), choice(chosen), percent(percent_chosen) {}
  bool operator==(const Linker&) const = default;
};

// Terms joined by `+`, each kind at most once: packet; concat (without packet), links or full; head-K, K from 1;
// blend-R or prophet-P, percent from 1 to 100. INVALID_ARGUMENT: says what is wrong.
absl::StatusOr<Linker> ParseLinker(absl::string_view name);
// As ParseLinker reads it: concat, links, full, head-8, packet, packet+links+head-8+prophet-5.
std::string LinkerName(Linker linker);

}  // namespace kvlink::link

#endif  // KVLINK_WORKER_LINK_LINKER_H_
