// The engine's check on demand: every byte in the segments, and the index against itself.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "store/engine/engine.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

// A message per kind of problem would do; a broken disk must not fill memory with them.
constexpr size_t kMaxProblems = 1000;
// For reads that are under way already.
constexpr absl::Duration kMaxWait = absl::Seconds(30);

void Report(std::string problem, std::vector<std::string>* problems) {
  if (problems->size() < kMaxProblems) problems->push_back(std::move(problem));
}

}  // namespace

absl::StatusOr<std::vector<Manifest>> Engine::ListManifests(absl::string_view ns, const Identity& after,
                                                            int64_t limit) {
  std::vector<Manifest> manifests;
  KVLINK_ASSIGN_OR_RETURN(const std::vector<EncodingKey> keys, index_->ListKeys(ns, after, limit));
  for (const EncodingKey& key : keys) {
    const auto location = table_.Find(key);
    if (!location.has_value()) continue;  // removed meanwhile
    auto manifest = ManifestOf(key, *location);
    if (absl::IsNotFound(manifest.status())) continue;
    if (absl::IsDataLoss(manifest.status())) {
      DropDamaged(key, location->sequence);
      continue;
    }
    KVLINK_RETURN_IF_ERROR(manifest.status());
    manifests.push_back(*std::move(manifest));
  }
  return manifests;
}

absl::Status Engine::Suspect(const EncodingKey& key) {
  EntryUse use = table_.Use(key, /*touch=*/false);
  if (!use) return absl::NotFoundError("a miss: nothing to suspect");
  const uint64_t sequence = use.location().sequence;
  bool counted = false;
  if (ResidentLease resident = tier_->Acquire(sequence)) {
    absl::Status status;
    for (size_t layer = 0; layer < resident->manifest().layers.size() && status.ok(); ++layer) {
      if (resident->manifest().layers[layer].length == 0) continue;
      // Verified once already, perhaps: what was right then is what is in doubt.
      status = resident->WaitLayer(layer, SteadyNow() + kMaxWait);
      if (status.ok()) status = resident->manifest().VerifyLayer(layer, resident->slab(layer));
    }
    if (absl::IsDeadlineExceeded(status)) return status;
    if (!status.ok()) {
      ++counters_.integrity_failures;
      counted = true;
      tier_->Forget(sequence);
    }
  }
  const absl::Status status = VerifyEncoding(use, /*background=*/false, {});
  if (absl::IsDataLoss(status)) DropDamaged(key, sequence, /*count=*/!counted);
  return status;
}

absl::StatusOr<Engine::VerifyOutcome> Engine::Verify(const std::function<bool(int64_t, int64_t)>& progress) {
  VerifyOutcome outcome;
  outcome.index_problems = segments_->problems();
  std::vector<EncodingKey> keys;
  const absl::Status scanned = index_->ScanLocations([&](EncodingKey key, absl::StatusOr<Location> location) {
    if (!location.ok()) {
      Report(absl::StrCat(key.ns, "/", key.identity.Hex(), ": ", location.status().message()), &outcome.index_problems);
    }
    keys.push_back(std::move(key));
  });
  if (!scanned.ok()) Report(std::string(scanned.message()), &outcome.index_problems);
  int64_t total = table_.bytes();
  for (const EncodingKey& key : keys) {
    EntryUse use = table_.Use(key, /*touch=*/false);
    if (!use) continue;  // removed meanwhile
    const absl::Status status = VerifyEncoding(use, /*background=*/false, {});
    if (absl::IsNotFound(status)) continue;
    if (absl::IsDataLoss(status)) {
      outcome.damaged.push_back({key, std::string(status.message())});
      DropDamaged(key, use.location().sequence);
    } else if (!status.ok()) {
      return status;
    }
    ++outcome.encodings;
    outcome.bytes += use.location().bytes;
    if (progress && !progress(outcome.bytes, std::max(total, outcome.bytes))) return outcome;
  }
  VerifyIndex(&outcome.index_problems);
  return outcome;
}

void Engine::VerifyIndex(std::vector<std::string>* problems) {
  const auto note = [problems](const absl::Status& status) {
    if (!status.ok()) Report(std::string(status.message()), problems);
  };
  // No change may come between the scans.
  MutexLock lock(&commit_mutex_);
  note(index_->VerifyChecksums());
  int64_t manifests = 0, locations = 0;
  note(index_->ScanLocations([&](EncodingKey key, absl::StatusOr<Location> location) {
    ++locations;
    const auto known = table_.Find(key);
    if (location.ok() && (!known.has_value() || known->sequence != location->sequence)) {
      if (!options_.read_only)
        Report(absl::StrCat(key.ns, "/", key.identity.Hex(), ": a location record the store does not serve"), problems);
    }
  }));
  note(index_->ScanManifestKeys([&](const EncodingKey& key) {
    ++manifests;
    if (!options_.read_only && !table_.Find(key).has_value()) {
      Report(absl::StrCat(key.ns, "/", key.identity.Hex(), ": a manifest without a location record"), problems);
    }
  }));
  if (manifests != locations) Report(absl::StrCat(locations, " location records, ", manifests, " manifests"), problems);

  int64_t needed = 0, references = 0;
  std::map<std::string, int64_t> documents;
  note(index_->ScanAllEntries([&](absl::string_view ns, absl::string_view id, absl::string_view bytes) {
    const auto entry = ParseCatalogEntry(bytes);
    if (!entry.ok()) {
      Report(absl::StrCat("document ", ns, "/", id, ": ", entry.status().message()), problems);
      return;
    }
    if (!entry->tombstone) ++documents[std::string(ns)];
    std::vector<Identity> identities;
    for (const CatalogPart& part : entry->parts) identities.push_back(part.identity);
    std::sort(identities.begin(), identities.end());
    identities.erase(std::unique(identities.begin(), identities.end()), identities.end());
    needed += static_cast<int64_t>(identities.size());
    for (const Identity& identity : identities) {
      if (!index_->HasReference(ns, identity, id))
        Report(absl::StrCat("document ", ns, "/", id, ": a reference is missing"), problems);
    }
  }));
  note(index_->ScanReferences([&](absl::string_view, const Identity&, absl::string_view) { ++references; }));
  if (references != needed) Report(absl::StrCat(references, " references where the catalog needs ", needed), problems);
  for (const auto& [ns, count] : documents_) {
    const auto it = documents.find(ns);
    const int64_t found = it == documents.end() ? 0 : it->second;
    if (found != count)
      Report(absl::StrCat("namespace ", ns, ": ", found, " documents, the counter says ", count), problems);
  }
}

}  // namespace kvlink::engine
