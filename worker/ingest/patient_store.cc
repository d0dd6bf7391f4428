// All calls may be repeated, because entries have the generation of the run.
#include "worker/ingest/patient_store.h"

#include <algorithm>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::ingest {
namespace {

// Limit of the encodings a run notes: some 60 MB, whatever the corpus.
constexpr size_t kMaxNoted = size_t{1} << 20;

}  // namespace

absl::StatusOr<uint64_t> PatientStore::Clock() {
  absl::StatusOr<uint64_t> clock_us;
  KVLINK_RETURN_IF_ERROR(retry_.Run([&] {
    clock_us = store_->Clock();
    return clock_us.status();
  }));
  return clock_us;
}

absl::StatusOr<PatientStore::Entries> PatientStore::GetDocuments(const std::vector<std::string>& ids) {
  absl::StatusOr<Entries> entries;
  KVLINK_RETURN_IF_ERROR(retry_.Run([&] {
    entries = store_->GetDocuments(ns_, ids);
    return entries.status();
  }));
  return entries;
}

absl::StatusOr<std::vector<store::Found>> PatientStore::Lookup(const std::vector<Identity>& identities) {
  absl::StatusOr<std::vector<store::Found>> found;
  if (identities.empty()) return std::vector<store::Found>();
  KVLINK_RETURN_IF_ERROR(retry_.Run([&] {
    found = store_->Lookup(ns_, identities, codec_);
    return found.status();
  }));
  MutexLock lock(&mutex_);
  for (size_t i = 0; i < identities.size(); ++i) {
    if ((*found)[i].present) Note(identities[i], (*found)[i].bytes);
  }
  return found;
}

absl::StatusOr<bool> PatientStore::Put(const encode::Encoded& encoded, absl::Duration timeout) {
  // Only for a run that writes: the store of a cluster counts its documents for this, which may take seconds.
  absl::call_once(evictions_noted_, [this] {
    const auto stats = store_->Stats();
    MutexLock lock(&mutex_);
    if (stats.ok()) evictions_ = stats->evictions;
  });
  absl::StatusOr<store::PutResult> result;
  KVLINK_RETURN_IF_ERROR(retry_.Run([&] {
    result = store_->Put(ns_, encoded.manifest, encoded.slabs, SteadyNow() + timeout);
    return result.status();
  }));
  MutexLock lock(&mutex_);
  Note(encoded.manifest.identity, encoded.manifest.bytes());
  return result->written();
}

std::vector<absl::Status> PatientStore::PutDocuments(const std::vector<store::DocumentPut>& documents) {
  std::vector<absl::Status> statuses;
  const absl::Status status = retry_.Run([&]() -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const auto put, store_->PutDocuments(ns_, documents));
    for (const absl::StatusOr<uint64_t>& one : put) statuses.push_back(one.status());
    return absl::OkStatus();
  });
  if (!status.ok()) statuses.assign(documents.size(), status);
  return statuses;
}

void PatientStore::Note(const Identity& identity, int64_t bytes) {
  if (needed_.size() >= kMaxNoted && !needed_.contains(identity)) {
    corpus_bytes_ += bytes;
    return;
  }
  if (needed_.insert(identity).second) corpus_bytes_ += bytes;
}

int64_t PatientStore::corpus_bytes() {
  MutexLock lock(&mutex_);
  return corpus_bytes_;
}

PatientStore::Missing PatientStore::CountMissing() {
  std::vector<Identity> identities;
  {
    MutexLock lock(&mutex_);
    identities.assign(needed_.begin(), needed_.end());
  }
  constexpr size_t kBatch = 1000;
  Missing missing;
  for (size_t i = 0; i < identities.size(); i += kBatch) {
    const auto found = store_->Lookup(ns_, absl::MakeConstSpan(identities).subspan(i, kBatch), codec_);
    if (!found.ok()) return {};
    missing.encodings +=
        std::count_if(found->begin(), found->end(), [](const store::Found& one) { return !one.present; });
  }
  if (missing.encodings == 0) return missing;
  const auto stats = store_->Stats();
  MutexLock lock(&mutex_);
  missing.evicted = !stats.ok() || stats->evictions != evictions_.value_or(stats->evictions);
  return missing;
}

}  // namespace kvlink::ingest
