// Which encodings of a node are read most of late, and how much: a sketch of a bounded size, to which each read is
// added.
//
// Space-saving (Metwally et al., 2005) over counts that fade: of all that is read, whatever is more than a 64th of the
// bytes is among the entries, and no rate is above the true one. Adding takes some tens of nanoseconds.
//
// Thread-safety: all methods. Times are of SteadyNow(), and ascend nearly.
#ifndef KVLINK_STORE_NODE_READ_RATES_H_
#define KVLINK_STORE_NODE_READ_RATES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/engine/disk/location.h"

namespace kvlink::store::node {

class ReadRates {
 public:
  static constexpr size_t kEntries = 64;

  struct Rate {
    engine::EncodingKey key;
    double bytes_per_second = 0, reads_per_second = 0;
  };
  struct Snapshot {
    std::vector<Rate> encodings;  // by bytes, the most first
    double bytes_per_second = 0;  // of everything that was read
  };

  // Of a rate that ends, half is left after so long.
  explicit ReadRates(absl::Duration half_life) : half_life_(half_life) {}

  void Add(const engine::EncodingKey& key, int64_t bytes, absl::Time now);
  Snapshot Now(absl::Time now) const;

 private:
  struct Entry {
    engine::EncodingKey key;
    double bytes = 0, reads = 0;  // since it is an entry
    double before = 0;            // bytes that whoever it took the place of had: it may have had as many itself
    double most() const { return bytes + before; }
  };

  // What a byte weighs that is read now, against one at base_: instead of letting all counts fade, new ones grow.
  double WeightAt(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Rebase(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Entry& EntryOf(const engine::EncodingKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration half_life_;
  mutable Mutex mutex_;
  absl::Time base_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  double bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of everything
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_READ_RATES_H_
