// The UUID of a node's store, which identifies the node to clients, to the other members of its cluster and to its
// database. Thread-safety: values and pure functions.
#ifndef KVLINK_PROTO_NODE_ID_H_
#define KVLINK_PROTO_NODE_ID_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace kvlink {

using NodeId = std::array<uint8_t, 16>;

inline absl::string_view BytesOf(const NodeId& id) { return {reinterpret_cast<const char*>(id.data()), id.size()}; }

// Nothing if `bytes` has another size.
inline std::optional<NodeId> ToNodeId(absl::string_view bytes) {
  NodeId id;
  if (bytes.size() != id.size()) return std::nullopt;
  std::copy(bytes.begin(), bytes.end(), id.begin());
  return id;
}

}  // namespace kvlink

#endif  // KVLINK_PROTO_NODE_ID_H_
