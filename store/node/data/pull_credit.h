// How much of pulls may be in flight at a time, so that a key that pulls a lot does not delay one that pulls a little.
// A key alone is not limited. Where several pull, those from memory go before those from disk, and among these the key
// that has been sent the least lately goes first; each of the others has at most a little in flight, which is what the
// first waits for in the network's queue.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_DATA_PULL_CREDIT_H_
#define KVLINK_STORE_NODE_DATA_PULL_CREDIT_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/store.h"

namespace kvlink::store::node {

class PullCredit {
 public:
  // `behind_others`: bytes in flight of a key that does not go first. `half_life`: what was sent that long ago counts
  // half.
  PullCredit(int64_t behind_others, absl::Duration half_life) : behind_others_(behind_others), half_life_(half_life) {}

  // Around each pull of a key.
  void PullBegan(const std::string& key, Tier from);
  void PullEnded(const std::string& key, Tier from);

  // True: `bytes` may be sent; Return follows when they are. False: `again` is called once, by a Return of the same
  // key, when there may be room; it may find none. A key that has nothing in flight is always let in. REQUIRES: between
  // PullBegan and PullEnded.
  bool Take(const std::string& key, Tier from, int64_t bytes, std::function<void()> again);
  void Return(const std::string& key, int64_t bytes);

 private:
  struct Waiter {
    Tier from;
    int64_t bytes;
    std::function<void()> again;
  };
  struct Key {
    int64_t memory_pulls = 0, disk_pulls = 0;
    int64_t in_flight = 0;
    int64_t sent_lately = 0;
    std::deque<Waiter> waiting;  // one for each pull at most
  };

  bool HasRoom(const Key& key, Tier from, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Lets what was sent count less as time goes by, and forgets keys of which nothing is left.
  void Age() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t behind_others_;
  const absl::Duration half_life_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, Key> keys_ ABSL_GUARDED_BY(mutex_);
  absl::Time aged_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PULL_CREDIT_H_
