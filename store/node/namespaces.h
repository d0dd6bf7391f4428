// Limits how many namespaces writers may create: each costs a node more than its bytes (address space, a memory file,
// tables), and new names are free. Each key has its share of them, as of everything (quota.h).
//
// A namespace that holds nothing any longer (no documents, encodings, settings, memory) is forgotten, and may then be
// another key's. One that has had tier memory counts as long as the node runs, because the tier keeps a place for it.
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

// The namespaces of which the engine holds anything.
std::set<std::string, std::less<>> NamespacesIn(engine::Engine* engine);

class Namespaces {
 public:
  Namespaces(int64_t max, int64_t reserve) : quota_("namespaces", max, reserve) {}

  // Registers the namespaces the store had when it was opened. They belong to no key, but count.
  void Know(const std::set<std::string, std::less<>>& names);
  // Call before anything is written into `ns`. RESOURCE_EXHAUSTED: the node, or the key, would exceed its limit.
  absl::Status Admit(const Grant& grant, absl::string_view ns);
  // Forgets namespaces that are not in `held` and were not admitted since `before`.
  void Forget(const std::set<std::string, std::less<>>& held, absl::Time before);
  int64_t known() const { return quota_.taken(); }

 private:
  struct Known {
    Grant grant;  // the grant it is charged to
    absl::Time admitted;
  };
  Quota quota_;
  mutable Mutex mutex_;
  std::map<std::string, Known, std::less<>> known_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_NAMESPACES_H_
