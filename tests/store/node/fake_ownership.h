// Ownership of a node as set by a test, while nodes query it.
#ifndef KVLINK_TESTS_STORE_NODE_FAKE_OWNERSHIP_H_
#define KVLINK_TESTS_STORE_NODE_FAKE_OWNERSHIP_H_

#include <cstdint>
#include <map>
#include <set>

#include "base/mutex.h"
#include "store/node/ownership.h"

namespace kvlink::testing {

// Thread-safe.
class FakeOwnership : public store::node::Ownership {
 public:
  // At `epoch`, the node owns exactly these.
  void Own(uint64_t epoch, std::set<Identity> identities) {
    MutexLock lock(&mutex_);
    owned_[epoch] = std::move(identities);
  }
  void MoveTo(uint64_t epoch) {
    MutexLock lock(&mutex_);
    epoch_ = epoch;
  }
  uint64_t epoch() const override {
    MutexLock lock(&mutex_);
    return epoch_;
  }
  bool Owns(const Identity& identity, uint64_t epoch) const override {
    MutexLock lock(&mutex_);
    const auto known = owned_.find(epoch);
    return known != owned_.end() && known->second.contains(identity);
  }

 private:
  mutable Mutex mutex_;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, std::set<Identity>> owned_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_NODE_FAKE_OWNERSHIP_H_
