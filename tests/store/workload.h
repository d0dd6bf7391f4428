// A workload on a store with a known outcome: what was promised, and what may be found after a crash at any moment.
#ifndef KVLINK_TESTS_STORE_WORKLOAD_H_
#define KVLINK_TESTS_STORE_WORKLOAD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "store/store.h"
#include "tests/store/synthetic.h"

namespace kvlink::testing {

// One change of one document.
struct Change {
  int thread = 0;
  int document = 0;
  uint64_t version = 0;  // its generation, from 1
  bool deletes = false;

  std::string id() const { return absl::StrCat("doc-", thread, "-", document); }
  // The version's encodings: the first is its own, a second is shared with other documents.
  std::vector<Synthetic> Encodings() const;
  CatalogEntry Entry() const;
};

// How to put an encoding into a namespace of the store.
using PutEncoding = std::function<absl::Status(absl::string_view ns, const Synthetic& encoding)>;
PutEncoding PutInto(store::Store* store);

// Makes `count` changes to documents of `thread`, calling started before and acknowledged after each. The changes are
// derived from the seed. Stops at the first failure.
absl::Status RunChanges(store::Store* store, const PutEncoding& put, uint64_t seed, int thread, int count,
                        const std::function<void(const Change&)>& started,
                        const std::function<void(const Change&)>& acknowledged);

// When each change was started and acknowledged. Thread-safe.
class Ledger {
 public:
  void Started(const Change& change, int64_t moment);
  void Acknowledged(const Change& change, int64_t moment);
  // Checks a store opened after a crash at `moment`: every promised document is there and reads back, only written
  // contents are served, verify agrees, and work can continue. `evictions`: encodings may have been evicted.
  absl::Status Check(store::Store* store, int64_t moment, bool evictions) const;

 private:
  struct Line {
    Change change;
    int64_t started = 0;
    int64_t acknowledged = INT64_MAX;
  };
  absl::Status CheckDocument(store::Store* store, const std::vector<Line>& lines, int64_t moment, bool evictions) const;

  mutable Mutex mutex_;
  std::map<std::string, std::vector<Line>> lines_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_WORKLOAD_H_
