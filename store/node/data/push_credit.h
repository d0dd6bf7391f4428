// Limits the push bytes in flight at a time: to a small amount while pulls are served and shortly after, so that
// indexing gives way to serving. Writers get shares: if several want to write, each gets at most half; and a writer
// with nothing in flight is always granted one receive, as far as the total allows, even if other writers leave their
// grants unused.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_DATA_PUSH_CREDIT_H_
#define KVLINK_STORE_NODE_DATA_PUSH_CREDIT_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace kvlink::store::node {

class PushCredit {
 public:
  // `shortly`: how long after the last pull another one is still expected.
  PushCredit(int64_t alone, int64_t beside_pulls, absl::Duration shortly)
      : alone_(alone), beside_pulls_(beside_pulls), shortly_(shortly) {}

  // Returns true if `bytes` may be received, until Return. On false, `again` will be called when there may be room
  // (possibly in vain), on the thread that made it. One receive is always granted.
  bool Take(const std::string& owner, int64_t bytes, std::function<void()> again);
  void Return(const std::string& owner, int64_t bytes);
  void PullBegan();
  void PullEnded();
  int64_t taken() const;

 private:
  bool HasRoom(const std::string& owner, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t Room() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Wakes waiting pushes, in order, as far as there is room, passing over owners that have their share.
  void Wake();

  const int64_t alone_, beside_pulls_;
  const absl::Duration shortly_;
  mutable Mutex mutex_;
  int64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t pulls_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time last_pull_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::flat_hash_map<std::string, int64_t> held_ ABSL_GUARDED_BY(mutex_);  // by owner; no zeros
  struct Waiter {
    std::string owner;
    int64_t bytes;
    std::function<void()> again;
  };
  std::deque<Waiter> waiting_ ABSL_GUARDED_BY(mutex_);  // at most one per push
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PUSH_CREDIT_H_
