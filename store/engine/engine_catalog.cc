// The engine's catalog: documents, tombstones, and references to identities. Changes come in batches. A batch is worked
// out in memory against the index, so that its documents see each other, and becomes durable in one commit.
#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/little_endian.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kDeletedAtATime = 1024;  // per commit, of a namespace

std::set<Identity> IdentitiesOf(const CatalogEntry& entry) {
  std::set<Identity> identities;
  for (const CatalogPart& part : entry.parts) identities.insert(part.identity);
  return identities;
}

// A batch of changes to one namespace's catalog, not yet in the index.
class CatalogChanges {
 public:
  // `clock`: the store's.
  CatalogChanges(const Index* index, absl::string_view ns, std::function<uint64_t()> clock)
      : index_(*index), ns_(ns), clock_(std::move(clock)) {}

  // Returns the document's generation afterwards. FAILED_PRECONDITION: the stored entry is greater, or has the last
  // possible generation.
  absl::StatusOr<uint64_t> Put(absl::string_view id, CatalogEntry entry) {
    KVLINK_ASSIGN_OR_RETURN(Document* const document, Find(id));
    const CatalogEntry& there = document->entry;
    const bool gives_generation = entry.generation == 0;
    if (document->known) {
      const auto takes_place = TakesPlace(there, entry);
      KVLINK_RETURN_IF_ERROR(Annotate(takes_place.status(), absl::StrCat("document ", id)));
      if (!*takes_place) return there.generation;
    }
    entry.written_at_us = clock_();
    if (gives_generation) entry.generation = std::max(entry.written_at_us, there.generation + 1);
    const std::set<Identity> before = IdentitiesOf(document->entry), after = IdentitiesOf(entry);
    for (const Identity& identity : before) references_[identity][std::string(id)] = false;
    for (const Identity& identity : after) references_[identity][std::string(id)] = true;
    documents_ += (entry.tombstone ? 0 : 1) - (document->live() ? 1 : 0);
    const uint64_t generation = entry.generation;
    document->entry = std::move(entry);
    document->known = true;
    document->changed = true;
    return generation;
  }

  bool empty() const { return references_.empty() && documents_ == 0 && !AnyChanged(); }
  // Change in the number of documents.
  int64_t documents() const { return documents_; }
  void AddTo(IndexBatch* batch) const {
    for (const auto& [id, document] : found_) {
      if (document.changed) batch->PutEntry(ns_, id, SerializeCatalogEntry(document.entry));
    }
    for (const auto& [identity, ids] : references_) {
      for (const auto& [id, refers] : ids) {
        if (refers) {
          batch->AddReference(ns_, identity, id);
        } else {
          batch->DeleteReference(ns_, identity, id);
        }
      }
    }
  }
  // Identities that lost a reference in the batch and have none left.
  absl::StatusOr<std::vector<Identity>> Orphans() const {
    std::vector<Identity> orphans;
    for (const auto& [identity, ids] : references_) {
      if (std::any_of(ids.begin(), ids.end(), [](const auto& one) { return one.second; })) continue;
      KVLINK_ASSIGN_OR_RETURN(const bool referred, index_.ReferredBy(ns_, identity, [&ids = ids](absl::string_view id) {
        return ids.find(std::string(id)) == ids.end();
      }));
      if (!referred) orphans.push_back(identity);
    }
    return orphans;
  }

 private:
  struct Document {
    CatalogEntry entry;
    bool known = false;  // it exists and parses
    bool changed = false;
    bool live() const { return known && !entry.tombstone; }
  };

  bool AnyChanged() const {
    return std::any_of(found_.begin(), found_.end(), [](const auto& one) { return one.second.changed; });
  }
  absl::StatusOr<Document*> Find(absl::string_view id) {
    const auto [it, is_new] = found_.try_emplace(std::string(id));
    if (!is_new) return &it->second;
    auto bytes = index_.GetEntry(ns_, id);
    if (!bytes.ok()) {
      found_.erase(it);
      return bytes.status();
    }
    if (!bytes->has_value()) return &it->second;
    // An entry that does not parse is replaced: nothing else could repair it.
    auto parsed = ParseCatalogEntry(**bytes);
    if (absl::IsUnimplemented(parsed.status())) {
      found_.erase(it);
      return parsed.status();
    }
    if (parsed.ok()) {
      it->second.entry = *std::move(parsed);
      it->second.known = true;
    }
    return &it->second;
  }

  const Index& index_;
  const absl::string_view ns_;
  const std::function<uint64_t()> clock_;
  std::map<std::string, Document> found_;
  std::map<Identity, std::map<std::string, bool>> references_;  // identity -> document -> whether it refers to it
  int64_t documents_ = 0;
};

}  // namespace

absl::Status EngineImpl::PutEntry(absl::string_view ns, absl::string_view id, const CatalogEntry& entry) {
  KVLINK_ASSIGN_OR_RETURN(const auto put, PutEntries(ns, {EntryPut{id, &entry}}));
  return put[0].status();
}

absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> EngineImpl::PutEntries(absl::string_view ns,
                                                                             absl::Span<const EntryPut> puts) {
  KVLINK_RETURN_IF_ERROR(Writable());
  std::vector<absl::StatusOr<uint64_t>> generations;
  for (const EntryPut& put : puts) {
    const absl::Status valid = ParseCatalogEntry(SerializeCatalogEntry(*put.entry)).status();
    generations.push_back(valid.ok() ? absl::StatusOr<uint64_t>(0) : valid);
  }
  MutexLock lock(&commit_mutex_);
  CatalogChanges changes(index_.get(), ns, [this] { return Now(); });
  for (size_t i = 0; i < puts.size(); ++i) {
    if (generations[i].ok()) generations[i] = changes.Put(puts[i].id, *puts[i].entry);
  }
  if (changes.empty()) return generations;
  IndexBatch batch(index_.get());
  changes.AddTo(&batch);
  KeepTime(&batch);
  KVLINK_ASSIGN_OR_RETURN(const std::vector<Identity> orphans, changes.Orphans());
  std::vector<EncodingKey> keys;
  for (const Identity& identity : orphans) {
    for (EncodingKey& key : table_.Variants(ns, identity)) keys.push_back(std::move(key));
  }
  const int64_t documents = std::max<int64_t>(DocumentCount(ns) + changes.documents(), 0);
  if (changes.documents() != 0) {
    std::string value;
    AppendField<uint64_t>(documents, &value);
    batch.PutMeta(absl::StrCat("documents/", ns), value);
  }
  KVLINK_RETURN_IF_ERROR(RemoveKeys(keys, &batch, &counters_.unreferenced));
  if (changes.documents() != 0) SetDocumentCount(ns, documents);
  return generations;
}

int64_t EngineImpl::DocumentCount(absl::string_view ns) {
  MutexLock lock(&documents_mutex_);
  const auto it = documents_.find(std::string(ns));
  return it == documents_.end() ? 0 : it->second;
}

void EngineImpl::SetDocumentCount(absl::string_view ns, std::optional<int64_t> count) {
  MutexLock lock(&documents_mutex_);
  if (count.has_value()) {
    documents_[std::string(ns)] = *count;
  } else {
    documents_.erase(std::string(ns));
  }
}

absl::StatusOr<Engine::NamespaceDeleted> EngineImpl::DeleteNamespace(absl::string_view ns) {
  KVLINK_RETURN_IF_ERROR(Writable());
  NamespaceDeleted deleted;
  // Documents before encodings: a document whose encodings are gone is still intact, while encodings without a document
  // are garbage. Each pass continues where the previous one ended, so that writers cannot keep it going.
  std::string last;
  for (bool more = true; more;) {
    MutexLock lock(&commit_mutex_);
    IndexBatch batch(index_.get());
    int64_t entries = 0, documents = 0;
    more = false;
    KVLINK_RETURN_IF_ERROR(
        index_->ScanEntries(ns, std::string(last), [&](absl::string_view id, absl::string_view bytes) {
          more = entries == kDeletedAtATime;
          if (more) return false;
          ++entries;
          last = std::string(id);
          batch.DeleteEntry(ns, id);
          // The references of an entry that does not parse are dangling, and Verify reports them.
          const auto entry = ParseCatalogEntry(bytes);
          if (!entry.ok()) return true;
          for (const Identity& identity : IdentitiesOf(*entry)) batch.DeleteReference(ns, identity, id);
          documents += entry->tombstone ? 0 : 1;
          return true;
        }));
    const int64_t left = more ? std::max<int64_t>(0, DocumentCount(ns) - documents) : 0;
    if (more) {
      std::string value;
      AppendField<uint64_t>(left, &value);
      batch.PutMeta(absl::StrCat("documents/", ns), value);
    } else {
      batch.DeleteMeta(absl::StrCat("documents/", ns));
    }
    KVLINK_RETURN_IF_ERROR(RemoveKeys({}, &batch, &counters_.removed));
    SetDocumentCount(ns, more ? std::optional<int64_t>(left) : std::nullopt);
    deleted.documents += documents;
  }
  for (Identity after;;) {
    MutexLock lock(&commit_mutex_);
    KVLINK_ASSIGN_OR_RETURN(const std::vector<EncodingKey> keys, index_->ListKeys(ns, after, kDeletedAtATime));
    if (keys.empty()) break;
    after = keys.back().identity;
    IndexBatch batch(index_.get());
    KVLINK_RETURN_IF_ERROR(RemoveKeys(keys, &batch, &counters_.removed));
    deleted.encodings += static_cast<int64_t>(keys.size());
  }
  KVLINK_RETURN_IF_ERROR(ForgetNamespace(ns));
  return deleted;
}

absl::StatusOr<CatalogEntry> EngineImpl::GetEntry(absl::string_view ns, absl::string_view id) {
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

absl::StatusOr<std::vector<std::string>> EngineImpl::ListIds(absl::string_view ns, absl::string_view after,
                                                             absl::string_view prefix, int64_t limit, bool deleted) {
  std::vector<std::string> ids;
  if (limit <= 0) return ids;
  // An entry that does not parse counts as a document, so that deletions see it.
  const auto wanted = [deleted](absl::string_view bytes) {
    const auto entry = ParseCatalogEntry(bytes);
    return (entry.ok() && entry->tombstone) == deleted;
  };
  if (after < prefix) {
    // Scans begin after an id, and the first id with the prefix is the prefix itself.
    KVLINK_ASSIGN_OR_RETURN(const std::optional<std::string> first, index_->GetEntry(ns, prefix));
    if (first.has_value() && wanted(*first)) ids.emplace_back(prefix);
    after = prefix;
  }
  KVLINK_RETURN_IF_ERROR(index_->ScanEntries(ns, after, [&](absl::string_view id, absl::string_view bytes) {
    if (static_cast<int64_t>(ids.size()) >= limit || id.substr(0, prefix.size()) != prefix) return false;
    if (wanted(bytes)) ids.emplace_back(id);
    return true;
  }));
  return ids;
}

absl::Status EngineImpl::EraseEntry(absl::string_view ns, absl::string_view id) {
  KVLINK_RETURN_IF_ERROR(Writable());
  MutexLock lock(&commit_mutex_);
  KVLINK_ASSIGN_OR_RETURN(const std::optional<std::string> bytes, index_->GetEntry(ns, id));
  if (!bytes.has_value()) return absl::NotFoundError(absl::StrCat("no document ", id, " in ", ns));
  IndexBatch batch(index_.get());
  batch.DeleteEntry(ns, id);
  std::vector<EncodingKey> orphans;
  int64_t documents = 0;
  // The references of an entry that does not parse are unknown; `verify` reports them.
  const auto entry = ParseCatalogEntry(*bytes);
  if (entry.ok() && !entry->tombstone) {
    for (const Identity& identity : IdentitiesOf(*entry)) {
      batch.DeleteReference(ns, identity, id);
      KVLINK_ASSIGN_OR_RETURN(const bool elsewhere,
                              index_->ReferredBy(ns, identity, [id](absl::string_view by) { return by != id; }));
      if (elsewhere) continue;
      for (EncodingKey& key : table_.Variants(ns, identity)) orphans.push_back(std::move(key));
    }
    documents = std::max<int64_t>(DocumentCount(ns) - 1, 0);
    std::string value;
    AppendField<uint64_t>(documents, &value);
    batch.PutMeta(absl::StrCat("documents/", ns), value);
  }
  KVLINK_RETURN_IF_ERROR(RemoveKeys(orphans, &batch, &counters_.unreferenced));
  if (entry.ok() && !entry->tombstone) SetDocumentCount(ns, documents);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Engine::Document>> EngineImpl::ListEntries(absl::string_view ns, absl::string_view after,
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
