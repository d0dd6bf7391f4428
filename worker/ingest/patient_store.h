// The store as one run uses it: repeats calls while the store is away, and notes the encodings that the corpus needs,
// so that those that are gone again can be counted at the end. Private to worker/ingest. Thread-safety: all
// methods.
#ifndef KVLINK_WORKER_INGEST_PATIENT_STORE_H_
#define KVLINK_WORKER_INGEST_PATIENT_STORE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/call_once.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/store.h"
#include "worker/encode/encoder.h"
#include "worker/ingest/retry.h"

namespace kvlink::ingest {

class PatientStore {
 public:
  // `outage`: as Retry.
  PatientStore(store::Store* store, std::string ns, Codec codec, absl::Duration outage)
      : store_(store), ns_(std::move(ns)), codec_(codec), retry_(outage) {}

  // Like those of the store.
  absl::StatusOr<uint64_t> Clock();
  using Entries = std::vector<absl::StatusOr<CatalogEntry>>;
  absl::StatusOr<Entries> GetDocuments(const std::vector<std::string>& ids);
  // Notes what is found.
  absl::StatusOr<std::vector<store::Found>> Lookup(const std::vector<Identity>& identities);
  // Whether it was written; noted in either case.
  absl::StatusOr<bool> Put(const encode::Encoded& encoded, absl::Duration timeout);
  // One status per document.
  std::vector<absl::Status> PutDocuments(const std::vector<store::DocumentPut>& documents);

  // Stops waiting for the store to return.
  void Stop() { retry_.Stop(); }
  // Bytes of the noted encodings.
  int64_t corpus_bytes();
  // Noted encodings that are no longer in the store. Only part of a large corpus is noted, so the number is a lower
  // bound. 0 if the store does not answer.
  struct Missing {
    int64_t encodings = 0;
    bool evicted = true;  // the store has evicted something since the first Put; else what referred to them was deleted
  };
  Missing CountMissing();

 private:
  void Note(const Identity& identity, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  store::Store* const store_;
  const std::string ns_;
  const Codec codec_;
  Retry retry_;

  Mutex mutex_;
  absl::flat_hash_set<Identity> needed_ ABSL_GUARDED_BY(mutex_);
  int64_t corpus_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<int64_t> evictions_ ABSL_GUARDED_BY(mutex_);  // of the store, before the first Put
  absl::once_flag evictions_noted_;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_PATIENT_STORE_H_
