// Limits each connection's pull bytes in flight, so that a key that pulls a lot does not delay one that pulls a little:
// the bytes one has in flight are ahead of the other's first byte in the network's queue.
//
// If several keys pull, those pulling from memory go before those pulling from disk, and among these the key that has
// recently been sent least goes first; the other connections get fewer bytes in flight. No connection waits for
// another: a reader that does not take its data delays only itself.
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
  // `first`, `behind`: bytes in flight on a connection whose key goes first, and on the others; one piece is always
  // allowed. `half_life`: the time after which bytes sent to a key count half.
  PullCredit(int64_t first, int64_t behind, absl::Duration half_life)
      : first_(first), behind_(behind), half_life_(half_life) {}

  // One pull, from Began to Ended.
  struct Pull {
    std::string key;
    int64_t connection;
    Tier from;
  };
  void Began(const Pull& pull);
  void Ended(const Pull& pull);

  // Returns true if `bytes` may be sent; Return must follow when they have been. On false, `again` is called once, by a
  // Return of the same connection, when there may be room (possibly in vain); it is not called after the pull has
  // ended.
  bool Take(const Pull& pull, int64_t bytes, std::function<void()> again);
  void Return(const Pull& pull, int64_t bytes);

 private:
  struct Key {
    int64_t memory_pulls = 0, disk_pulls = 0;
    int64_t sent_lately = 0;
  };
  struct Waiter {
    const Pull* pull;
    int64_t bytes;
    std::function<void()> again;
  };
  struct Connection {
    int64_t in_flight = 0;
    std::deque<Waiter> waiting;  // at most one per pull
  };

  bool GoesFirst(const Pull& pull) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasRoom(const Connection& connection, const Pull& pull, int64_t bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ages the counts of sent bytes, and forgets keys that have none left.
  void Age() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t first_, behind_;
  const absl::Duration half_life_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, Key> keys_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<int64_t, Connection> connections_ ABSL_GUARDED_BY(mutex_);  // with bytes in flight
  absl::Time aged_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PULL_CREDIT_H_
