// How much of pulls may be in flight at a time, so that a key that pulls a lot does not delay one that pulls a little.
// A key alone is not limited. Where several pull, the key that has been sent the least lately goes first; each of the
// others has at most a little in flight, which is what the first waits for in the network's queue, and one piece on
// each connection besides: a reader that does not take what it asked for holds up no other reader of its key.
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

namespace kvlink::store::node {

class PullCredit {
 public:
  // `behind_others`: bytes in flight of a key that does not go first. `half_life`: what was sent that long ago counts
  // half.
  PullCredit(int64_t behind_others, absl::Duration half_life) : behind_others_(behind_others), half_life_(half_life) {}

  // One pull, from Began until Ended.
  struct Pull {
    std::string key;
    const void* connection;
  };
  void Began(const Pull& pull);
  void Ended(const Pull& pull);

  // True: `bytes` may be sent; Return follows when they are. False: `again` is called once, by a Return of the same
  // key, when there may be room; it may find none. It is not called once the pull has ended. A connection that has
  // nothing in flight is always let in.
  bool Take(const Pull& pull, int64_t bytes, std::function<void()> again);
  void Return(const Pull& pull, int64_t bytes);

 private:
  struct Waiter {
    const Pull* pull;
    int64_t bytes;
    std::function<void()> again;
  };
  struct Key {
    int64_t pulls = 0;
    int64_t in_flight = 0;
    absl::flat_hash_map<const void*, int64_t> in_flight_on;  // by connections that have some
    int64_t sent_lately = 0;
    std::deque<Waiter> waiting;  // one for each pull at most
  };

  bool HasRoom(const Key& key, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of those that wait, the one whose turn it is after a Return on `connection`; null: none has room.
  std::function<void()> Next(Key* key, const void* connection) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
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
