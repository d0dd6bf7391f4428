// Lists the catalog twice: the first pass counts, to enforce the limit without keeping a list; the second deletes.
#include "worker/ingest/prune.h"

#include <functional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "worker/ingest/retry.h"

namespace kvlink::ingest {
namespace {

using store::DocumentInfo;
using Page = std::vector<DocumentInfo>;

// Calls `take` with the documents whose ids begin with `prefix`, page by page.
absl::Status ForEachPage(store::DocumentCatalog* catalog, const PruneOptions& options, const Retry& retry,
                         const std::function<absl::Status(const Page&)>& take) {
  std::string after = options.prefix;
  if (!after.empty()) {
    // The listing starts after the prefix, but the prefix may itself be a document.
    absl::StatusOr<CatalogEntry> itself;
    const absl::Status got = retry.Run([&] {
      itself = catalog->GetDocument(options.ns, after);
      return itself.status();
    });
    if (!got.ok() && !absl::IsNotFound(got)) return got;
    if (got.ok()) {
      KVLINK_RETURN_IF_ERROR(
          take({{.id = after, .generation = itself->generation, .written_at_us = itself->written_at_us}}));
    }
  }
  for (;;) {
    Page page;
    KVLINK_RETURN_IF_ERROR(retry.Run([&]() -> absl::Status {
      KVLINK_ASSIGN_OR_RETURN(page, catalog->ListDocuments(options.ns, after, store::kMaxCatalogBatch));
      return absl::OkStatus();
    }));
    bool more = static_cast<int64_t>(page.size()) == store::kMaxCatalogBatch;
    if (!page.empty()) after = page.back().id;
    while (!page.empty() && !absl::StartsWith(page.back().id, options.prefix)) {
      page.pop_back();
      more = false;
    }
    KVLINK_RETURN_IF_ERROR(take(page));
    if (!more) return absl::OkStatus();
  }
}

std::string Scope(const PruneOptions& options, const Shard& shard) {
  std::string scope = absl::StrCat("namespace '", options.ns, "'");
  if (!options.prefix.empty()) absl::StrAppend(&scope, " that begin with '", options.prefix, "'");
  if (shard.count > 1) absl::StrAppend(&scope, " (shard ", shard.index, "/", shard.count, ")");
  return scope;
}

}  // namespace

absl::StatusOr<int64_t> Prune(store::DocumentCatalog* catalog, const DocumentSource& source, const IngestCounts& counts,
                              SeenIds* seen, const PruneOptions& options) {
  if (source.stopped()) {
    return absl::FailedPreconditionError("nothing was pruned: the source was not read to its end");
  }
  if (source.unnamed() > 0) {
    return absl::FailedPreconditionError(absl::StrCat("nothing was pruned: ", source.unnamed(),
                                                      " documents or files of the source could not be read, and their "
                                                      "ids are unknown; correct them and run the command again"));
  }
  KVLINK_RETURN_IF_ERROR(seen->Finish());
  const Retry retry(options.outage);
  const Shard& shard = source.shard();
  // Compare the time as well: a run that began earlier, and so has a lower generation, may have put it during this one.
  const auto vanished = [&](const DocumentInfo& document) {
    return document.generation <= counts.generation && document.written_at_us <= counts.began_us &&
           !seen->Contains(document.id);
  };
  int64_t owned = 0, would_go = 0;
  KVLINK_RETURN_IF_ERROR(ForEachPage(catalog, options, retry, [&](const Page& page) {
    for (const DocumentInfo& document : page) {
      if (!shard.Has(document.id)) continue;
      ++owned;
      would_go += vanished(document) ? 1 : 0;
    }
    return absl::OkStatus();
  }));
  if (would_go == 0) return 0;
  if (static_cast<double>(would_go) * 100 > options.limit_percent * static_cast<double>(owned)) {
    return absl::FailedPreconditionError(
        absl::StrFormat("nothing was pruned: %d of the %d documents of %s are not in the source, more than %g%%; check "
                        "that the source is complete, then raise --prune-limit",
                        would_go, owned, Scope(options, shard), options.limit_percent));
  }
  int64_t deleted = 0;
  KVLINK_RETURN_IF_ERROR(ForEachPage(catalog, options, retry, [&](const Page& page) -> absl::Status {
    std::vector<store::DocumentDeletion> deletions;
    for (const DocumentInfo& document : page) {
      if (shard.Has(document.id) && vanished(document)) deletions.push_back({document.id, document.generation});
    }
    if (deletions.empty()) return absl::OkStatus();
    std::vector<absl::Status> statuses;
    // Each deletion names the generation that was listed: it may be repeated, and does not reach what was put since.
    KVLINK_RETURN_IF_ERROR(retry.Run([&]() -> absl::Status {
      KVLINK_ASSIGN_OR_RETURN(statuses, catalog->DeleteDocuments(options.ns, deletions));
      return absl::OkStatus();
    }));
    for (const absl::Status& status : statuses) {
      // Another process put it again meanwhile.
      if (!status.ok() && !absl::IsFailedPrecondition(status)) return status;
      deleted += status.ok() ? 1 : 0;
    }
    return absl::OkStatus();
  }));
  return deleted;
}

}  // namespace kvlink::ingest
