// Bulk indexing: documents from a source are tokenised, encoded in batches and written to a store, each with its
// catalog entry.
//
//   source -> tokenise -> skip what is there, encode equal text once -> encode in batches -> put and catalogue
//                                                                                            (several threads)
//
// A catalog entry is written after its encoding is durable: a document that the catalog names is complete. Ingest may
// be ended at any moment, also by kill -9, and run again: documents whose entry already names the same model, title and
// identity, and whose encoding is in the store, are skipped; the rest is done.
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
#include "worker/ingest/document_source.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::ingest {

struct IngestOptions {
  std::string ns = "default";
  // Generation of the catalog entries written. 0: the time at which the run began, by the store's clock
  // (StoreStats::clock_us), so that a later run replaces what an earlier one wrote or deleted, whichever host runs it.
  // A document whose entry has a higher generation fails.
  uint64_t generation = 0;
  bool stop_at_first_failure = false;
  int writers = 3;
  int64_t queued_bytes = int64_t{256} << 20;  // encodings waiting to be written
  absl::Duration put_timeout = absl::Minutes(2);
  absl::Duration patience = absl::Minutes(15);  // how long a stage waits for the next one before the run ends
  // How long the store may be away (UNAVAILABLE: a node that is started again) before the run ends.
  absl::Duration outage = absl::Seconds(60);
};

struct IngestCounts {
  int64_t documents = 0;  // read, good or bad
  int64_t added = 0;      // catalogued by this run
  int64_t replaced = 0;   // of `added`: the id stood for another text, title or model before
  int64_t skipped = 0;    // complete already
  int64_t failed = 0;
  int64_t shared = 0;  // of `added`: their encoding was in the store, or another document of this run has the same text
  int64_t tokens = 0;  // encoded by this run
  int64_t bytes = 0;   // of encodings written by this run
  int64_t position = 0;  // of the source, up to the documents done
  // After the run. Encodings of documents that were added or skipped and are no longer in the store, since it had no
  // room for all of them; and the bytes of all.
  int64_t evicted = 0;
  int64_t corpus_bytes = 0;
};

struct IngestInput {
  DocumentSource* source = nullptr;
  const model::Tokenizer* tokenizer = nullptr;
  const link::LinkProfile* profile = nullptr;
  int64_t context = 0;  // most tokens of a document
  Fingerprint fingerprint;
  encode::Encoder* encoder = nullptr;
  store::Store* store = nullptr;
};

struct IngestCallbacks {
  // A document failed: where it stands, its id (empty if it has none) and why.
  std::function<void(absl::string_view where, absl::string_view id, const absl::Status& status)> failed;
  // The counts have changed. May be empty.
  std::function<void(const IngestCounts& counts)> progress;
};

// OK even if documents failed or were evicted again: see IngestCounts. An error ends the run: RESOURCE_EXHAUSTED when
// the store is full, UNAVAILABLE when it is closing or was away for too long, DEADLINE_EXCEEDED when a stage stands
// still, and the encoder's errors. What was stored stays. `counts` is filled in either case.
absl::Status Ingest(const IngestInput& input, const IngestOptions& options, const IngestCallbacks& callbacks,
                    IngestCounts* counts);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_INGEST_H_
