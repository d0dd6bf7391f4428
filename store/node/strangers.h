// Connections whose peer has not said who it is, or not with a key that the node knows. There is room for a number of
// them; where one more comes, one goes: of the host that has the most, the one that has been here longest. So a crowd
// from some hosts takes no room from the others.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_STRANGERS_H_
#define KVLINK_STORE_NODE_STRANGERS_H_

#include <cstdint>
#include <list>
#include <string>

#include "absl/strings/string_view.h"
#include "base/descriptor.h"
#include "base/mutex.h"

namespace kvlink::store::node {

class Strangers {
 public:
  explicit Strangers(int max) : max_(max) {}

  // `peer`: "host:port". `socket`: a duplicate, at which the connection can be cut.
  void Add(std::string peer, std::string host, Descriptor socket);
  // The peer has said who it is. Nothing happens where it was known, or did not come by Add. `peer` may have the scheme
  // that gRPC puts before it.
  void Known(absl::string_view peer);
  // One of them goes, as where there is no room: the process has no descriptors. False: there is none.
  bool Cut();
  // Forgets those that have left by themselves: until then each costs a descriptor.
  void Sweep();
  int count() const;
  int max() const { return max_; }
  int64_t cut() const;  // in all

 private:
  struct Stranger {
    std::string peer, host;
    Descriptor socket;
  };
  void ForgetClosed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CutOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int max_;
  mutable Mutex mutex_;
  std::list<Stranger> strangers_ ABSL_GUARDED_BY(mutex_);  // in the order they came
  int64_t cut_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_STRANGERS_H_
