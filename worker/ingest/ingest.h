// Bulk indexing: documents from a source are looked up in the catalog, and those that are not complete there are
// tokenised, cut into parts where they are too long, encoded in batches and written to a store, each with its catalog
// entry.
//
//   source -> look up many at a time, skip what is complete -> tokenise, cut -> encode equal text once, in batches
//          -> put and catalogue (several threads)
//
// A catalog entry is written after its encodings are durable: a document that the catalog names is complete. Ingest may
// be ended at any moment, also by kill -9, and run again: documents whose entry has the content digest that this run
// would write (docs/formats.md "Content digest"), and whose encodings are in the store, are skipped without being
// tokenised; the rest is done, and what is there of it is not encoded again.
//
// Thread-safety: Ingest runs threads of its own; callbacks are called from these, one at a time.
// Lifetime: what Input points to must outlive the call.
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
  // (StoreStats::clock_us), so that a later run replaces what an earlier one wrote or deleted, whichever host runs it.
  // A document whose entry has a higher generation fails.
  uint64_t generation = 0;
  // Most tokens of a part of a document; 0: what is longer than the context is cut into halves of it (chunk.h).
  int64_t chunk_tokens = 0;
  // A document whose id does not begin with it fails: the source owns these ids and no others (prune.h).
  std::string prefix;
  bool stop_at_first_failure = false;
  int writers = 3;
  int64_t queued_bytes = int64_t{256} << 20;  // encodings waiting to be written
  absl::Duration put_timeout = absl::Minutes(2);
  absl::Duration patience = absl::Minutes(15);  // how long a stage waits for the next one before the run ends
  // How long the store may be away (a node that is started again, a database that stands still) before the run ends.
  absl::Duration outage = absl::Seconds(60);
};

struct IngestCounts {
  int64_t documents = 0;  // read, good or bad
  int64_t added = 0;      // catalogued by this run
  int64_t replaced = 0;   // of `added`: the id stood for another text, title or model before
  int64_t skipped = 0;    // complete already
  int64_t failed = 0;
  int64_t shared = 0;       // of `added`: their encodings were in the store, or are another document's of this run
  int64_t cut = 0;          // of those tokenised by this run: documents of several parts
  int64_t encodings = 0;    // computed by this run
  int64_t tokens = 0;       // of these
  int64_t bytes = 0;        // of encodings written by this run
  int64_t position = 0;     // of the source, up to the documents done
  uint64_t generation = 0;  // of the entries that this run writes
  uint64_t began_us = 0;    // when the run began, by the store's clock (StoreStats::clock_us)
  // After the run. Encodings of documents that were added or skipped and are no longer in the store, since it had no
  // room for all of them; and the bytes of all.
  int64_t evicted = 0;
  int64_t corpus_bytes = 0;
};

struct IngestInput {
  DocumentSource* source = nullptr;
  const model::Tokenizer* tokenizer = nullptr;
  const link::LinkProfile* profile = nullptr;
  int64_t context = 0;  // most tokens of an encoding
  Fingerprint fingerprint;
  encode::Encoder* encoder = nullptr;
  store::Store* store = nullptr;
  SeenIds* seen = nullptr;  // gets the ids of all documents of the source, good or bad; may be nullptr
};

// A document, or a place in the source, that failed. Valid during the call.
struct Failure {
  absl::string_view where;
  int64_t position = 0;     // SourceItem
  absl::string_view id;     // empty: it has none
  absl::string_view title;  // empty where they are not at hand
  absl::string_view text;
  absl::Status status;
};

struct IngestCallbacks {
  // A document failed. An error ends the run. May be empty.
  std::function<absl::Status(const Failure& failure)> failed;
  // The counts have changed. May be empty.
  std::function<void(const IngestCounts& counts)> progress;
};

// OK even if documents failed or were evicted again: see IngestCounts. An error ends the run: INVALID_ARGUMENT for
// options that do not fit, RESOURCE_EXHAUSTED when the store is full, UNAVAILABLE when it is closing or was away for
// too long, DEADLINE_EXCEEDED when a stage stands still, and the encoder's errors. What was stored stays. `counts` is
// filled in either case.
absl::Status Ingest(const IngestInput& input, const IngestOptions& options, const IngestCallbacks& callbacks,
                    IngestCounts* counts);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_INGEST_H_
