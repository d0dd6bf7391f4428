// How much of a node a namespace may use; in a cluster, how much of all nodes together, counting every copy.
// Thread-safety: plain values.
#ifndef KVLINK_STORE_NAMESPACE_LIMITS_H_
#define KVLINK_STORE_NAMESPACE_LIMITS_H_

#include <cstdint>
#include <optional>
#include <string>

namespace kvlink::store {

struct NamespaceLimits {
  std::string name;
  int64_t capacity_bytes = 0;  // max bytes in segments; 0: no limit of its own
  int64_t pinned_bytes = 0;    // max bytes of pinned encodings; 0: each node's default
  uint64_t revision = 0;       // of these limits, below 2^63; 0: never set
};

// Changes only the members that are set. The revision becomes the given one, which must be above the current one, or
// the next.
struct NamespaceChange {
  std::string name;
  std::optional<int64_t> capacity_bytes, pinned_bytes;
  std::optional<uint64_t> revision;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NAMESPACE_LIMITS_H_
