// The store as one run uses it: calls are repeated while the store is away, and the encodings that the corpus needs are
// noted, so that those which had to make room for later ones are counted in the end. Private to worker/ingest.
// Thread-safety: all methods.
#ifndef KVLINK_WORKER_INGEST_PATIENT_STORE_H_
#define KVLINK_WORKER_INGEST_PATIENT_STORE_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/store.h"
#include "worker/encode/encoder.h"

namespace kvlink::ingest {

class PatientStore {
 public:
  // `outage`: how long the store may be away (UNAVAILABLE, DEADLINE_EXCEEDED, ABORTED) before a call gives up.
  // Where it is full (RESOURCE_EXHAUSTED), calls are tried again for 10 s at most.
  PatientStore(store::Store* store, std::string ns, Codec codec, absl::Duration outage)
      : store_(store), ns_(std::move(ns)), codec_(codec), outage_(outage) {}

  // As those of the store.
  absl::StatusOr<uint64_t> Clock();
  using Entries = std::vector<absl::StatusOr<CatalogEntry>>;
  absl::StatusOr<Entries> GetDocuments(const std::vector<std::string>& ids);
  // What is found is noted.
  absl::StatusOr<std::vector<store::Found>> Lookup(const std::vector<Identity>& identities);
  // Whether it was written; noted in either case.
  absl::StatusOr<bool> Put(const encode::Encoded& encoded, absl::Duration timeout);
  // A status for each.
  std::vector<absl::Status> PutDocuments(const std::vector<store::DocumentPut>& documents);

  // Calls no longer wait for the store to come back.
  void Stop() { stopped_ = true; }
  // Bytes of what was noted.
  int64_t corpus_bytes();
  // Noted encodings that are not in the store any more. Of a large corpus only a part is noted, so that this is a lower
  // bound. 0 where the store does not answer any more.
  int64_t CountEvicted();

 private:
  absl::Status Persist(absl::FunctionRef<absl::Status()> call);
  void Note(const Identity& identity, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  store::Store* const store_;
  const std::string ns_;
  const Codec codec_;
  const absl::Duration outage_;
  std::atomic<bool> stopped_{false};

  Mutex mutex_;
  absl::flat_hash_set<Identity> needed_ ABSL_GUARDED_BY(mutex_);
  int64_t corpus_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_PATIENT_STORE_H_
