// Per-key quotas: the share of a node's resources that one access key may hold.
//
// A holder (the name of a grant) may hold as much as is then still free: one that takes all it can ends with half, two
// with a third each, and the next one always finds something. Administrators are exempt, and a part is reserved for
// them.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_QUOTA_H_
#define KVLINK_STORE_NODE_QUOTA_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "store/node/access.h"

namespace kvlink::store::node {

class Quota {
 public:
  // `what` is used in messages: "connections". `reserve`, a part of `total`, is for administrators.
  Quota(std::string what, int64_t total, int64_t reserve) : what_(std::move(what)), total_(total), reserve_(reserve) {}

  // Takes an amount, until Return of the same amount. RESOURCE_EXHAUSTED: the holder's share or the node's total is
  // used up.
  absl::Status Take(const Grant& grant, int64_t amount = 1);
  void Return(const Grant& grant, int64_t amount = 1);

  int64_t taken() const;
  int64_t taken(const Grant& grant) const;

 private:
  const std::string what_;
  const int64_t total_, reserve_;
  mutable Mutex mutex_;
  int64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int64_t> holders_ ABSL_GUARDED_BY(mutex_);  // by holder; no zeros
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_QUOTA_H_
