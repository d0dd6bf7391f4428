// Connections whose peer has not identified itself, or not with a key the node knows. Their number is limited; when one
// more arrives, the oldest of the host with the most is cut off. So a crowd from some hosts takes no room from others.
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

  // `peer`: "host:port". `socket`: a duplicate, through which the connection can be shut down.
  void Add(std::string peer, std::string host, Descriptor socket);
  // The peer has identified itself. Does nothing if it was known, or was not added. `peer` may have the scheme that
  // gRPC prepends.
  void Known(absl::string_view peer);
  // Cuts one of them off, as if there were no room; for when the process has no descriptors left. Returns false if
  // there is none.
  bool Cut();
  // Forgets those that have disconnected; until then each costs a descriptor.
  void Sweep();
  int count() const;
  int max() const { return max_; }
  int64_t cut() const;  // in total

 private:
  struct Stranger {
    std::string peer, host;
    Descriptor socket;
  };
  void ForgetClosed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CutOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int max_;
  mutable Mutex mutex_;
  std::list<Stranger> strangers_ ABSL_GUARDED_BY(mutex_);  // in order of arrival
  int64_t cut_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_STRANGERS_H_
