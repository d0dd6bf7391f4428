// A document inside an ingest. Private to worker/ingest.
#ifndef KVLINK_WORKER_INGEST_DOCUMENT_H_
#define KVLINK_WORKER_INGEST_DOCUMENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/catalog.h"
#include "worker/encode/encoder.h"
#include "worker/ingest/chunk.h"
#include "worker/ingest/source/document_source.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::ingest {

// Read and digested.
struct ReadDocument {
  SourceItem item;
  ContentDigest content;
};

// Tokenised and cut.
struct Document {
  std::string where;
  int64_t position = 0;
  std::string id;
  std::string title;
  ContentDigest content;
  std::vector<CatalogPart> parts;
  int64_t tokens = 0;     // of all parts
  bool replaces = false;  // the catalog has different contents under this id

  // Remaining work and its outcome; guarded by the run's lock once the document is planned.
  int64_t pending = 0;
  bool encoded_here = false;  // this run encodes one of its parts on its behalf
  absl::Status status;
};

// INVALID_ARGUMENT: nothing but white space.
absl::Status CheckText(absl::string_view text);
// INVALID_ARGUMENT: a document without text or tokens, or with more parts or tokens than a catalog entry allows.
absl::StatusOr<Document> Prepare(const model::Tokenizer& tokenizer, const link::LinkProfile& profile,
                                 const ChunkLimits& limits, const encode::Encoder& encoder, const ReadDocument& read);

// The entry that `document` is catalogued with. `context_digest`: of the encoder's wrapper.
CatalogEntry EntryOf(const Document& document, const Fingerprint& model, uint64_t generation,
                     absl::string_view context_digest);

// Whether `entry` names the same parts that this run would write, whoever wrote it.
bool SaysTheSame(const CatalogEntry& entry, const Fingerprint& model, const Document& document);
// Whether a document may be skipped if its encodings are in the store.
bool IsUnchanged(const CatalogEntry& entry, const Fingerprint& model, const ReadDocument& read);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_DOCUMENT_H_
