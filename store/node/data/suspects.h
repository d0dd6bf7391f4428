// Which encodings readers found wrong and the node has looked at lately: each is read again once in a while, however
// many readers say so, and however often.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_DATA_SUSPECTS_H_
#define KVLINK_STORE_NODE_DATA_SUSPECTS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace kvlink::store {

class Suspects {
 public:
  explicit Suspects(absl::Duration again) : again_(again) {}

  // Whether the encoding that was stored with this number (engine::Location::sequence: one that is stored anew has
  // another) is to be read now. True once within the time; false also while more were looked at than are remembered.
  bool Add(uint64_t sequence, absl::Time now) {
    MutexLock lock(&mutex_);
    while (!order_.empty() && now - order_.front().first >= again_) {
      known_.erase(order_.front().second);
      order_.pop_front();
    }
    if (order_.size() >= kMax || !known_.insert(sequence).second) return false;
    order_.emplace_back(now, sequence);
    return true;
  }

 private:
  static constexpr size_t kMax = 65536;
  const absl::Duration again_;
  Mutex mutex_;
  absl::flat_hash_set<uint64_t> known_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::pair<absl::Time, uint64_t>> order_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_DATA_SUSPECTS_H_
