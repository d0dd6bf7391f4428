// Tracks which encodings were read most from a node lately, and at what rate, in a sketch of bounded size.
//
// This is Space-Saving (Metwally et al., 2005) with counts that decay. Every encoding with more than a 64th of the
// bytes read is among the entries, and no rate is above the true one. Adding a read takes tens of nanoseconds.
//
// Thread-safety: all methods. Times are of SteadyNow().
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
    std::vector<Rate> encodings;  // in descending order of bytes
    double bytes_per_second = 0;  // of all reads
  };

  // `half_life`: how long it takes a rate to fall to one half when reads stop.
  explicit ReadRates(absl::Duration half_life) : half_life_(half_life) {}

  void Add(const engine::EncodingKey& key, int64_t bytes, absl::Time now);
  Snapshot Now(absl::Time now) const;

 private:
  struct Entry {
    engine::EncodingKey key;
    double bytes = 0, reads = 0;  // since the key got this entry
    double before = 0;            // bytes counted for the entry's earlier keys: an upper bound on what this key missed
    double most() const { return bytes + before; }
  };

  // The weight of a byte read now, relative to one read at base_.
  double WeightAt(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Rebase(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Entry& EntryOf(const engine::EncodingKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration half_life_;
  mutable Mutex mutex_;
  absl::Time base_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  double bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of all reads
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_READ_RATES_H_
