// The content digest of documents (docs/formats.md "Content digest"). A document whose catalog entry has the digest
// that this run would write is skipped without being tokenised. Thread-safety: all methods.
#ifndef KVLINK_WORKER_INGEST_CONTENT_H_
#define KVLINK_WORKER_INGEST_CONTENT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "proto/catalog.h"
#include "worker/ingest/chunk.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::ingest {

class ContentDigester {
 public:
  // `nothing`: the identity of the empty token sequence, which stands for the model and the secret. Reads the whole
  // vocabulary.
  ContentDigester(const Identity& nothing, const model::Tokenizer& tokenizer, const link::LinkProfile& profile,
                  const ChunkLimits& limits);
  ContentDigest Of(absl::string_view title, absl::string_view text) const;

 private:
  std::string head_;  // common prefix of every record
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_CONTENT_H_
