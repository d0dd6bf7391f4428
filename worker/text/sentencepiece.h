// SentencePiece's BPE (Kudo and Richardson, arXiv 1808.06226), from pieces and scores to merges.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_TEXT_SENTENCEPIECE_H_
#define KVLINK_WORKER_TEXT_SENTENCEPIECE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/text/tokenizer_bpe.h"

namespace kvlink::model {

// Values of token_types in a GGUF.
enum PieceType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// SentencePiece joins the neighbours whose joined text is the piece with the highest score, leftmost first. As merges:
// each way to cut a normal piece into two others gets the rank of its score among all scores; equal scores have equal
// ranks. INVALID_ARGUMENT for a score that is not a number; UNIMPLEMENTED if merging could produce an unused piece
// (SentencePiece splits those again).
absl::StatusOr<std::vector<TokenizerDescription::Merge>> MergesFromScores(absl::Span<const std::string> pieces,
                                                                          absl::Span<const float> scores,
                                                                          absl::Span<const int32_t> types);

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_SENTENCEPIECE_H_
