// Cuts documents that are too long into parts, each of which is encoded alone.
//
// A part ends at the last end of a paragraph that it has room for; where that would leave it less than half full, at
// the last end of a sentence or line; else at white space, and where there is none, between two tokens. Each part
// stands in the document template under the document's title. White space at the end of a part belongs to no part; all
// other bytes of the text are in exactly one. Where a document is cut depends on tokenizer, profile, limits, title and
// text alone. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_INGEST_CHUNK_H_
#define KVLINK_WORKER_INGEST_CHUNK_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::ingest {

// In tokens, the template's included.
struct ChunkLimits {
  int64_t document = 0;  // a document of at most so many is not cut
  int64_t part = 0;      // most of a part of one that is
};
// `chunk_tokens` 0: only what is longer than the model's context is cut, into halves of the context, so that a part
// leaves room for a question. INVALID_ARGUMENT: more than the context.
absl::StatusOr<ChunkLimits> ChunkLimitsOf(int64_t chunk_tokens, int64_t context);

struct Chunk {
  std::vector<int32_t> tokens;  // with the template around the text
  uint64_t begin = 0;           // of the text, in bytes
  uint64_t end = 0;
};
// At least one. INVALID_ARGUMENT: invalid UTF-8, a document without tokens, a title that takes more than half of a
// part.
absl::StatusOr<std::vector<Chunk>> CutDocument(const model::Tokenizer& tokenizer, const link::LinkProfile& profile,
                                               const ChunkLimits& limits, absl::string_view title,
                                               absl::string_view text);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_CHUNK_H_
