// How many namespaces writers may bring into being: each costs a node more than its bytes do (address space, a file of
// memory, tables), and names are for the asking. A key has its share of them, as of everything (quota.h).
//
// One that holds nothing any more (no documents, encodings, settings, memory) is forgotten, and may be another's then.
// One that has had memory of the tier counts for as long as the node runs: the tier keeps a place for it.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_NAMESPACES_H_
#define KVLINK_STORE_NODE_NAMESPACES_H_

#include <functional>
#include <map>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/engine/engine.h"
#include "store/node/access.h"
#include "store/node/quota.h"

namespace kvlink::store::node {

// Those of which the engine holds anything.
std::set<std::string, std::less<>> NamespacesIn(engine::Engine* engine);

class Namespaces {
 public:
  Namespaces(int64_t max, int64_t reserve) : quota_("namespaces", max, reserve) {}

  // Those that the store had when it was opened. They are nobody's, and count.
  void Know(const std::set<std::string, std::less<>>& names);
  // Before anything is written into `ns`. RESOURCE_EXHAUSTED: it would be one more than the node, or the key, may have.
  absl::Status Admit(const Grant& grant, absl::string_view ns);
  // Forgets those that are not among `held` and were not admitted since `before`.
  void Forget(const std::set<std::string, std::less<>>& held, absl::Time before);
  int64_t known() const { return quota_.taken(); }

 private:
  struct Known {
    Grant grant;  // under which it counts
    absl::Time admitted;
  };
  Quota quota_;
  mutable Mutex mutex_;
  std::map<std::string, Known, std::less<>> known_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_NAMESPACES_H_
