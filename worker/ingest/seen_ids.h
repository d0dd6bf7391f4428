// The ids that a run has seen, for corpora whose ids do not fit in memory: 64 bits of each (IdHash). Ids in the set are
// always found; of the others, one in 2^64 / (ids in the set) is found falsely.
//
// Up to 4 million hashes stay in memory (32 MiB). More go, in sorted runs, to an unnamed temporary file (in $TMPDIR)
// that no other process can open and that disappears with the object, however the process ends.
// Thread-safety: one thread at a time; Contains by many once adding is finished.
#ifndef KVLINK_WORKER_INGEST_SEEN_IDS_H_
#define KVLINK_WORKER_INGEST_SEEN_IDS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvlink::ingest {

class SeenIds {
 public:
  // `run`: maximum number of hashes in memory.
  explicit SeenIds(size_t run = size_t{1} << 22) : run_(run) {}
  ~SeenIds();
  SeenIds(const SeenIds&) = delete;
  SeenIds& operator=(const SeenIds&) = delete;

  // RESOURCE_EXHAUSTED or UNAVAILABLE, naming the directory, if the file cannot be written; the set is then incomplete.
  absl::Status Add(absl::string_view id);
  // Call after the last Add. Errors as Add.
  absl::Status Finish();
  // REQUIRES: Finish returned OK.
  bool Contains(absl::string_view id) const;

 private:
  absl::Status Spill();
  absl::Status Fail(absl::string_view what) const;

  const size_t run_;
  std::vector<uint64_t> recent_;  // the run not yet in the file; sorted by Finish
  std::string folder_;
  int file_ = -1;
  size_t runs_ = 0;  // in the file, each of run_ hashes
  const uint64_t* mapped_ = nullptr;
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SEEN_IDS_H_
