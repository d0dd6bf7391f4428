// Pre-tokenizers: split text into the words within which byte-pair merges happen. Each implements one published regular
// expression by hand, with byte-for-byte the same splits; there is no general engine, so no pattern can be slow or
// recurse deeply.
//
// Thread-safety: pure functions. Text must be valid UTF-8; pieces point into it, are never empty, and together cover
// it.
#ifndef KVLINK_WORKER_TEXT_TOKENIZER_SPLIT_H_
#define KVLINK_WORKER_TEXT_TOKENIZER_SPLIT_H_

#include <optional>
#include <vector>

#include "absl/strings/string_view.h"

namespace kvlink::model {

enum class SplitPattern {
  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  kGpt2,
  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  kLlama3,
  // The same with \p{N} in place of \p{N}{1,3}.
  kQwen2,
  // Each \p{N} alone; text between them whole.
  kDigits,
  // Runs of \p{N}; text between them whole.
  kDigitRuns,
};

// The pattern for exactly this regular expression; nullopt for an unknown one.
std::optional<SplitPattern> FindSplitPattern(absl::string_view regex);

// Appends the pieces of `text` to `pieces`, in order. Linear in the length of the text.
void SplitText(SplitPattern pattern, absl::string_view text, std::vector<absl::string_view>& pieces);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TOKENIZER_SPLIT_H_
