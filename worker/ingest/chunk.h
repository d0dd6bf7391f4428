// Cuts documents that are too long into parts, each encoded on its own.
//
// A part ends at the last paragraph end that fits; if that leaves it less than half full, at the last sentence or line
// end; otherwise at white space; if there is none, between two tokens. Each part is put into the document template
// under the document's title. White space at the end of a part belongs to no part; all other bytes of the text are in
// exactly one. The cuts depend only on tokenizer, profile, limits, title and text. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_INGEST_CHUNK_H_
#define KVLINK_WORKER_INGEST_CHUNK_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::ingest {

// In tokens, including the template's.
struct ChunkLimits {
  int64_t document = 0;  // a document of at most this many tokens is not cut
  int64_t part = 0;      // maximum for a part of a document that is cut
};
// With `chunk_tokens` 0, only documents longer than the model's context are cut, into halves of the context, so that a
// part leaves room for a question. INVALID_ARGUMENT: more than the context.
absl::StatusOr<ChunkLimits> ChunkLimitsOf(int64_t chunk_tokens, int64_t context);

struct Chunk {
  std::vector<int32_t> tokens;  // including the template around the text
  uint64_t begin = 0;           // of the text, in bytes
  uint64_t end = 0;
};
// Returns at least one chunk. INVALID_ARGUMENT: invalid UTF-8, a document without tokens, a title longer than half of a
// part.
absl::StatusOr<std::vector<Chunk>> CutDocument(const model::Tokenizer& tokenizer, const link::LinkProfile& profile,
                                               const ChunkLimits& limits, absl::string_view title,
                                               absl::string_view text);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_CHUNK_H_
