// How much of pushes may be on its way at a time: little while pulls are served and shortly after, so that indexing
// gives way to serving. Writers have their share: where several want to write, one gets at most half; and one that has
// nothing on its way is always let in with one receive, as far as the whole goes, whatever others do not send.
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
  // `shortly`: for how long after the last pull the next one is still expected.
  PushCredit(int64_t alone, int64_t beside_pulls, absl::Duration shortly)
      : alone_(alone), beside_pulls_(beside_pulls), shortly_(shortly) {}

  // True: `bytes` may come, until Return. False: `again` will be called when there may be room, by whoever makes it;
  // it may find none. One receive is always let in.
  bool Take(const std::string& owner, int64_t bytes, std::function<void()> again);
  void Return(const std::string& owner, int64_t bytes);
  void PullBegan();
  void PullEnded();
  int64_t taken() const;

 private:
  bool HasRoom(const std::string& owner, int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t Room() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Asks those that wait as far as the room goes, in order, but past owners that have their share.
  void Wake();

  const int64_t alone_, beside_pulls_;
  const absl::Duration shortly_;
  mutable Mutex mutex_;
  int64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t pulls_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time last_pull_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::flat_hash_map<std::string, int64_t> held_ ABSL_GUARDED_BY(mutex_);  // by owners that hold something
  struct Waiter {
    std::string owner;
    int64_t bytes;
    std::function<void()> again;
  };
  std::deque<Waiter> waiting_ ABSL_GUARDED_BY(mutex_);  // one for each push at most
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PUSH_CREDIT_H_
