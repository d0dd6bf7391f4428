// How much of pulls each connection may have in flight, so that a key that pulls a lot does not delay one that pulls a
// little: what is in flight of one is what another's first byte waits for in the network's queue.
//
// Where several keys pull, those from memory go before those from disk, and among these the key that has been sent the
// least lately goes first; the connections of the others have less in flight. Nobody waits for another connection: a
// reader that does not take what it asked for holds up itself.
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
  // `first`, `behind`: bytes in flight on a connection whose key goes first, and on the others; one piece always may
  // be. `half_life`: after so long, bytes that a key was sent count half.
  PullCredit(int64_t first, int64_t behind, absl::Duration half_life)
      : first_(first), behind_(behind), half_life_(half_life) {}

  // One pull, from Began until Ended.
  struct Pull {
    std::string key;
    int64_t connection;
    Tier from;
  };
  void Began(const Pull& pull);
  void Ended(const Pull& pull);

  // True: `bytes` may be sent; Return follows when they are. False: `again` is called once, by a Return of the same
  // connection, when there may be room; it may find none. It is not called once the pull has ended.
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
    std::deque<Waiter> waiting;  // one for each pull at most
  };

  bool GoesFirst(const Pull& pull) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasRoom(const Connection& connection, const Pull& pull, int64_t bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Lets what was sent count less as time goes by, and forgets keys of which nothing is left.
  void Age() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t first_, behind_;
  const absl::Duration half_life_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, Key> keys_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<int64_t, Connection> connections_ ABSL_GUARDED_BY(mutex_);  // that have something in flight
  absl::Time aged_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PULL_CREDIT_H_
