// The engine's catalog: documents, tombstones, and who refers to which identity.
#include <algorithm>
#include <set>
#include <utility>

#include "base/little_endian.h"
#include "base/status.h"
#include "store/engine/engine.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

std::set<Identity> IdentitiesOf(const CatalogEntry& entry) {
  std::set<Identity> identities;
  for (const CatalogPart& part : entry.parts) identities.insert(part.identity);
  return identities;
}

}  // namespace

absl::Status Engine::PutEntry(absl::string_view ns, absl::string_view id, const CatalogEntry& entry) {
  KVLINK_RETURN_IF_ERROR(Writable());
  const std::string bytes = SerializeCatalogEntry(entry);
  KVLINK_RETURN_IF_ERROR(ParseCatalogEntry(bytes).status());
  MutexLock lock(&commit_mutex_);
  KVLINK_ASSIGN_OR_RETURN(const std::optional<std::string> old_bytes, index_->GetEntry(ns, id));
  CatalogEntry old;
  bool existed = false;
  if (old_bytes.has_value()) {
    // One that does not parse is replaced: nothing else could repair it.
    auto parsed = ParseCatalogEntry(*old_bytes);
    if (absl::IsUnimplemented(parsed.status())) return parsed.status();
    if (parsed.ok()) {
      old = *std::move(parsed);
      existed = true;
      const auto rank = [](const CatalogEntry& e, const std::string& b) {
        return std::tie(e.generation, e.tombstone, b);
      };
      if (rank(old, *old_bytes) > rank(entry, bytes)) {
        return absl::FailedPreconditionError(absl::StrCat("document ", id, ": generation ", old.generation,
                                                          old.tombstone ? " (deleted)" : "", " is there, ",
                                                          entry.generation, " does not replace it"));
      }
      if (*old_bytes == bytes) return absl::OkStatus();
    }
  }
  IndexBatch batch(index_.get());
  batch.PutEntry(ns, id, bytes);
  const std::set<Identity> before = IdentitiesOf(old), after = IdentitiesOf(entry);
  std::vector<EncodingKey> orphans;
  for (const Identity& identity : after) batch.AddReference(ns, identity, id);
  for (const Identity& identity : before) {
    if (after.contains(identity)) continue;
    batch.DeleteReference(ns, identity, id);
    KVLINK_ASSIGN_OR_RETURN(const bool elsewhere, index_->ReferredElsewhere(ns, identity, id));
    if (elsewhere) continue;
    for (EncodingKey& key : table_.Variants(ns, identity)) orphans.push_back(std::move(key));
  }
  const int64_t change = (entry.tombstone ? 0 : 1) - (existed && !old.tombstone ? 1 : 0);
  int64_t documents = change;
  if (const auto it = documents_.find(std::string(ns)); it != documents_.end()) documents += it->second;
  documents = std::max<int64_t>(documents, 0);
  if (change != 0) {
    std::string value;
    AppendField<uint64_t>(documents, &value);
    batch.PutMeta(absl::StrCat("documents/", ns), value);
  }
  KVLINK_RETURN_IF_ERROR(RemoveKeys(orphans, &batch, &counters_.unreferenced));
  if (change != 0) documents_[std::string(ns)] = documents;
  return absl::OkStatus();
}

absl::StatusOr<CatalogEntry> Engine::GetEntry(absl::string_view ns, absl::string_view id) {
  KVLINK_ASSIGN_OR_RETURN(const std::optional<std::string> bytes, index_->GetEntry(ns, id));
  if (!bytes.has_value()) return absl::NotFoundError(absl::StrCat("no document ", id, " in ", ns));
  auto entry = ParseCatalogEntry(*bytes);
  if (absl::IsInvalidArgument(entry.status())) {
    return absl::DataLossError(absl::StrCat("document ", id, ": ", entry.status().message(), "; ingest it again"));
  }
  KVLINK_RETURN_IF_ERROR(entry.status());
  if (entry->tombstone) return absl::NotFoundError(absl::StrCat("document ", id, " in ", ns, " was deleted"));
  return entry;
}

absl::StatusOr<std::vector<Engine::Document>> Engine::ListEntries(absl::string_view ns, absl::string_view after,
                                                                  int64_t limit) {
  std::vector<Document> documents;
  absl::Status damaged;
  if (limit <= 0) return documents;
  KVLINK_RETURN_IF_ERROR(index_->ScanEntries(ns, after, [&](absl::string_view id, absl::string_view bytes) {
    auto entry = ParseCatalogEntry(bytes);
    if (!entry.ok()) {
      damaged = absl::DataLossError(absl::StrCat("document ", id, ": ", entry.status().message(), "; ingest it again"));
      return false;
    }
    if (!entry->tombstone) documents.push_back({std::string(id), *std::move(entry)});
    return static_cast<int64_t>(documents.size()) < limit;
  }));
  KVLINK_RETURN_IF_ERROR(damaged);
  return documents;
}

}  // namespace kvlink::engine
