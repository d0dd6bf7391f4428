// Bulk encoding: looks up documents from a source in the catalog; tokenises incomplete ones, cuts those that are too
// long into parts, encodes them in batches and writes them to a store, each with its catalog entry.
//
//   source -> look up many at a time, skip what is complete -> tokenise, cut -> encode equal text once, in batches
//          -> put and catalogue (several threads)
//
// A catalog entry is written after its encodings are durable, so a document in the catalog is complete. Ingest may be
// ended at any moment, even by kill -9, and run again: documents whose entry has the content digest that this run would
// write (docs/formats.md "Content digest"), and whose encodings are in the store, are skipped without being tokenised.
// The others are completed, without encoding again what is already there.
//
// Thread-safety: Ingest runs its own threads and calls callbacks from them, one at a time. Lifetime: the objects that
// Input points to must outlive the call.
#ifndef KVLINK_WORKER_INGEST_INGEST_H_
#define KVLINK_WORKER_INGEST_INGEST_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "store/store.h"
#include "worker/encode/encoder.h"
#include "worker/ingest/seen_ids.h"
#include "worker/ingest/source/document_source.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::ingest {

struct IngestOptions {
  std::string ns = "default";
  // Generation of the catalog entries written. 0: the time at which the run began, by the store's clock
  // (DocumentCatalog::Clock), so that a later run replaces what an earlier one wrote or deleted, whichever host runs
  // it. A document whose entry has a higher generation fails.
  uint64_t generation = 0;
  // Maximum tokens of a part; 0: only documents longer than the context are cut, into halves of it (chunk.h).
  int64_t chunk_tokens = 0;
  // Documents whose ids do not begin with this prefix fail: the source owns only these ids (prune.h).
  std::string prefix;
  bool stop_at_first_failure = false;
  int writers = 3;
  int64_t queued_bytes = int64_t{256} << 20;  // encodings waiting to be written
  absl::Duration put_timeout = absl::Minutes(2);
  // How long a stage waits, beyond `outage`, for the next one before the run ends.
  absl::Duration patience = absl::Minutes(15);
  // How long the store may be unavailable (a node restarting, a stalled database) before the run ends.
  absl::Duration outage = absl::Seconds(60);
};

struct IngestCounts {
  int64_t documents = 0;  // read, whether valid or not
  int64_t added = 0;      // catalogued by this run
  int64_t replaced = 0;   // of `added`: the id had another text, title or model before
  int64_t skipped = 0;    // already complete
  int64_t failed = 0;
  int64_t shared = 0;       // of `added`: all their encodings were in the store, or belong to another document of this
                            // run
  int64_t cut = 0;          // of those tokenised by this run: documents with several parts
  int64_t encodings = 0;    // computed by this run
  int64_t tokens = 0;       // of these
  int64_t bytes = 0;        // of encodings written by this run
  int64_t position = 0;     // in the source, up to the documents done
  uint64_t generation = 0;  // of the entries written by this run
  uint64_t began_us = 0;    // when the run began, by the store's clock (DocumentCatalog::Clock)
  // Set after the run: encodings of documents added or skipped that have left the store since, because it could not
  // hold all of them, or because what referred to them was deleted; and the bytes of all encodings.
  int64_t evicted = 0, deleted = 0;
  int64_t corpus_bytes = 0;
};

struct IngestInput {
  DocumentSource* source = nullptr;
  const model::Tokenizer* tokenizer = nullptr;
  const link::LinkProfile* profile = nullptr;
  int64_t context = 0;  // maximum tokens of a document in one encoding, without those of the encoder's wrapper
  Fingerprint fingerprint;
  encode::Encoder* encoder = nullptr;
  store::Store* store = nullptr;
  SeenIds* seen = nullptr;  // receives the ids of all documents of the source, valid or not; may be nullptr
};

// A document or a place in the source that failed. Valid during the call.
struct Failure {
  absl::string_view where;
  int64_t position = 0;     // SourceItem
  absl::string_view id;     // empty if unknown
  absl::string_view title;  // title and text: empty if not available
  absl::string_view text;
  absl::Status status;
};

struct IngestCallbacks {
  // A document failed. An error ends the run. May be empty.
  std::function<absl::Status(const Failure& failure)> failed;
  // The counts have changed. May be empty.
  std::function<void(const IngestCounts& counts)> progress;
};

// Returns OK even if documents failed, or their encodings are gone again: see IngestCounts. An error ends the run:
// INVALID_ARGUMENT for unsuitable options, RESOURCE_EXHAUSTED when the store is full, UNAVAILABLE when it is closing or
// was away too long, DEADLINE_EXCEEDED when a stage stalls, and the encoder's errors. Stored encodings remain. `counts`
// is filled in either case. If the source is stopped, documents in progress are finished, and others that were read are
// left.
absl::Status Ingest(const IngestInput& input, const IngestOptions& options, const IngestCallbacks& callbacks,
                    IngestCounts* counts);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_INGEST_H_
