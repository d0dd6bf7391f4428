// The engine's check on demand: every byte in the segments, and the index for consistency. The index is compared as of
// one snapshot, so that the comparison blocks no other work; a difference from the current state is checked again
// before it is reported as a problem.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

// A broken disk must not fill memory with messages.
constexpr size_t kMaxProblems = 1000;
constexpr size_t kMaxDamaged = 10000;
// Limit for reads already in progress.
constexpr absl::Duration kMaxWait = absl::Seconds(30);
constexpr size_t kMaxSuspects = 4096;  // remembered at a time

void Report(std::string problem, std::vector<std::string>* problems) {
  if (problems->size() < kMaxProblems) problems->push_back(std::move(problem));
}

}  // namespace

absl::StatusOr<std::vector<Manifest>> EngineImpl::ListManifests(absl::string_view ns, const Identity& after,
                                                                int64_t limit) {
  std::vector<Manifest> manifests;
  KVLINK_ASSIGN_OR_RETURN(const std::vector<EncodingKey> keys, index_->ListKeys(ns, after, limit));
  for (const EncodingKey& key : keys) {
    const EntryUse use = table_.Use(key, /*touch=*/false);
    if (!use) continue;  // removed meanwhile
    auto manifest = ReadManifest(use, /*background=*/true, SteadyNow() + kMaxWait);
    // Damaged encodings are already being dropped.
    if (absl::IsNotFound(manifest.status()) || absl::IsDataLoss(manifest.status())) continue;
    KVLINK_RETURN_IF_ERROR(manifest.status());
    manifests.push_back(*std::move(manifest));
  }
  return manifests;
}

absl::Status EngineImpl::Suspect(const EncodingKey& key) {
  EntryUse use = table_.Use(key, /*touch=*/false);
  if (!use) return absl::NotFoundError("a miss: nothing to suspect");
  const uint64_t sequence = use.location().sequence;
  ResidentLease resident = tier_->Acquire(sequence);
  const bool checked_lately = NoteSuspect(sequence);
  bool counted = false;
  if (resident) {
    absl::Status status;
    for (size_t layer = 0; layer < resident->manifest().layers.size() && status.ok(); ++layer) {
      if (resident->manifest().layers[layer].length == 0) continue;
      // The layer may have been verified before; what was correct then is what is now in doubt.
      status = resident->WaitLayer(layer, SteadyNow() + kMaxWait);
      if (!status.ok()) break;  // the thread that loaded it has seen the error too
      status = resident->manifest().VerifyLayer(layer, resident->slab(layer));
      if (status.ok()) continue;
      ++counters_.integrity_failures;
      counted = true;
      tier_->Forget(sequence, &*resident);
    }
    if (absl::IsDeadlineExceeded(status)) {
      if (!checked_lately) {
        MutexLock lock(&suspects_mutex_);
        suspects_.erase(sequence);
      }
      return status;
    }
    counted |= absl::IsDataLoss(status);
  }
  if (checked_lately && !counted) return absl::OkStatus();
  const absl::Status status = VerifyEncoding(use, [this](int64_t) { return !closing(); });
  if (absl::IsDataLoss(status)) DropDamaged(key, sequence, status.message(), /*count=*/!counted);
  if (!status.ok()) {  // not found intact, so the next caller must not be told that it was
    MutexLock lock(&suspects_mutex_);
    suspects_.erase(sequence);
  }
  return status;
}

bool EngineImpl::NoteSuspect(uint64_t sequence) {
  const absl::Time now = SteadyNow();
  MutexLock lock(&suspects_mutex_);
  while (!suspects_in_order_.empty() && (suspects_in_order_.front().first + options_.suspect_interval <= now ||
                                         suspects_in_order_.size() > kMaxSuspects)) {
    suspects_.erase(suspects_in_order_.front().second);
    suspects_in_order_.pop_front();
  }
  if (!suspects_.insert(sequence).second) return true;
  suspects_in_order_.emplace_back(now, sequence);
  return false;
}

absl::StatusOr<Engine::VerifyOutcome> EngineImpl::Verify(const std::function<bool(int64_t, int64_t)>& progress) {
  VerifyOutcome outcome;
  outcome.index_problems = segments_->problems();
  std::optional<EncodingKey> after;
  for (;;) {
    const auto keys = index_->KeysAfter(after, kKeysAtOnce);
    if (!keys.ok()) Report(std::string(keys.status().message()), &outcome.index_problems);
    if (!keys.ok() || keys->empty()) break;
    for (const EncodingKey& key : *keys) {
      const EntryUse use = table_.Use(key, /*touch=*/false);
      if (!use) continue;  // removed meanwhile, or its record does not parse, which VerifyIndex reports
      const absl::Status status = VerifyEncoding(use, [this](int64_t) { return !closing(); });
      if (absl::IsNotFound(status)) continue;
      if (absl::IsUnimplemented(status)) {
        Report(std::string(status.message()), &outcome.index_problems);
        continue;
      }
      if (absl::IsDataLoss(status)) {
        if (outcome.damaged.size() < kMaxDamaged) {
          outcome.damaged.push_back({key, std::string(status.message()), DocumentsOf(key)});
        }
        DropDamaged(key, use.location().sequence, status.message());
      } else if (!status.ok()) {
        return status;
      }
      ++outcome.encodings;
      outcome.bytes += use.location().bytes;
      if (progress && !progress(outcome.bytes, std::max(table_.bytes(), outcome.bytes))) return outcome;
    }
    after = keys->back();
  }
  VerifyIndex(&outcome.index_problems);
  return outcome;
}

bool EngineImpl::Serves(const EncodingKey& key, const Location& location) {
  const auto served = table_.Find(key);
  if (served.has_value() && served->sequence == location.sequence) return true;
  // Removed or replaced since the snapshot; or between a commit and the table's update, which this lock excludes.
  MutexLock lock(&commit_mutex_);
  return table_.Find(key).has_value() || !index_->HasLocation(key);
}

void EngineImpl::VerifyIndex(std::vector<std::string>* problems) {
  const auto note = [problems](const absl::Status& status) {
    if (!status.ok()) Report(std::string(status.message()), problems);
  };
  note(index_->VerifyChecksums());
  if (const absl::Status floor = directory_->GetFloor().status(); absl::IsDataLoss(floor)) {
    note(floor);
    // The caller knows now; the next flush raises the new floor.
    if (!options_.read_only) directory_->ReplaceFloor({}).IgnoreError();
  }
  const IndexSnapshot now(index_.get());
  note(index_->ScanLocations(
      [&](const EncodingKey& key, const absl::StatusOr<Location>& location) {
        const std::string name = absl::StrCat(key.ns, "/", key.identity.Hex(), ": ");
        if (!location.ok()) {
          Report(name + std::string(location.status().message()), problems);
        } else if (!options_.read_only && !Serves(key, *location)) {
          Report(name + "a location record the store does not serve", problems);
        }
      },
      &now));
  VerifyCatalog(now, problems);
}

void EngineImpl::VerifyCatalog(const IndexSnapshot& now, std::vector<std::string>* problems) {
  const auto note = [problems](const absl::Status& status) {
    if (!status.ok()) Report(std::string(status.message()), problems);
  };
  int64_t needed = 0, references = 0;
  std::map<std::string, int64_t> documents;
  const auto check = [&](absl::string_view ns, absl::string_view id, absl::string_view bytes) {
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
      if (!index_->HasReference(ns, identity, id, &now))
        Report(absl::StrCat("document ", ns, "/", id, ": a reference is missing"), problems);
    }
  };
  note(index_->ScanAllEntries(check, &now));
  note(index_->ScanReferences([&](absl::string_view, const Identity&, absl::string_view) { ++references; }, &now));
  if (references != needed) Report(absl::StrCat(references, " references where the catalog needs ", needed), problems);
  const auto counters = index_->ListMeta(kDocumentsPrefix, &now);
  note(counters.status());
  if (!counters.ok()) return;
  for (const auto& [name, value] : *counters) {
    const std::string ns = name.substr(kDocumentsPrefix.size());
    const int64_t count = static_cast<int64_t>(FieldReader(value).Read<uint64_t>());
    if (documents[ns] != count)
      Report(absl::StrCat("namespace ", ns, ": ", documents[ns], " documents, the counter says ", count), problems);
  }
}

}  // namespace kvlink::engine
