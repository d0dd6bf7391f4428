// Deletes documents that are in the catalog but no longer in the corpus.
//
// A source owns a whole namespace, or the ids in it that begin with a prefix. Documents that it lacks are deleted,
// provided that the run that read it wrote or saw all it has. Nothing is rewritten: the run notes the ids it sees
// (SeenIds), and the catalog is listed. Documents put since the run began stay.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_INGEST_PRUNE_H_
#define KVLINK_WORKER_INGEST_PRUNE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/store.h"
#include "worker/ingest/ingest.h"
#include "worker/ingest/seen_ids.h"
#include "worker/ingest/source/document_source.h"

namespace kvlink::ingest {

struct PruneOptions {
  std::string ns = "default";
  std::string prefix;                         // empty: the source owns the whole namespace
  double limit_percent = 10;                  // of this shard's documents in the catalog that the source owns
  absl::Duration outage = absl::Seconds(60);  // as Retry
};

// After Ingest returned OK: deletes the documents that `source` (read to its end, only its shard) does not have, and
// returns their number. FAILED_PRECONDITION, deleting nothing, if reading was stopped, if part of the source could not
// be read, so that its documents are not known, or if more than the limit would be deleted. After a catalog error, some
// may be deleted.
absl::StatusOr<int64_t> Prune(store::DocumentCatalog* catalog, const DocumentSource& source, const IngestCounts& counts,
                              SeenIds* seen, const PruneOptions& options);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_PRUNE_H_
