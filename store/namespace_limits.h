// What a namespace may take of a node, or of a whole cluster: of all nodes together, every copy counted.
// Thread-safety: plain values.
#ifndef KVLINK_STORE_NAMESPACE_LIMITS_H_
#define KVLINK_STORE_NAMESPACE_LIMITS_H_

#include <cstdint>
#include <optional>
#include <string>

namespace kvlink::store {

struct NamespaceLimits {
  std::string name;
  int64_t capacity_bytes = 0;  // most bytes of segments; 0: no limit of its own
  int64_t pinned_bytes = 0;    // most of these by pinned encodings; 0: the default of each node
  uint64_t revision = 0;       // of these limits, below 2^63; 0: none were ever set
};

// Only what is given changes, and the revision: to the one given, which must be above the one that holds, or the next.
struct NamespaceChange {
  std::string name;
  std::optional<int64_t> capacity_bytes, pinned_bytes;
  std::optional<uint64_t> revision;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NAMESPACE_LIMITS_H_
