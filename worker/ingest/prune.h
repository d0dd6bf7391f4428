// Deletes the documents that are in the catalog and not in the corpus any more.
//
// A source owns a whole namespace, or the ids of it that begin with a prefix: what it does not have is deleted, if the
// run that read it wrote or saw all it has. Nothing is rewritten for that: the run notes the ids that it sees (SeenIds)
// and the catalog is listed. Documents that somebody put since the run began stay.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_INGEST_PRUNE_H_
#define KVLINK_WORKER_INGEST_PRUNE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "store/store.h"
#include "worker/ingest/ingest.h"
#include "worker/ingest/seen_ids.h"
#include "worker/ingest/source/document_source.h"

namespace kvlink::ingest {

struct PruneOptions {
  std::string ns = "default";
  std::string prefix;         // empty: the source owns the whole namespace
  double limit_percent = 10;  // of the documents in the catalog that the source owns, of this shard
};

// After Ingest returned OK: deletes what `source` (read to its end; its shard's documents alone) does not have. Returns
// how many. FAILED_PRECONDITION, deleting nothing: reading was stopped; something of the source could not be read, so
// that nobody knows which documents it has; more than the limit would go. Errors of the catalog: some may be deleted.
absl::StatusOr<int64_t> Prune(store::DocumentCatalog* catalog, const DocumentSource& source, const IngestCounts& counts,
                              SeenIds* seen, const PruneOptions& options);

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_PRUNE_H_
