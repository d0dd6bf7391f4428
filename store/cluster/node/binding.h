// Which cluster a store directory belongs to: its file CLUSTER (docs/formats.md "Store directory"). A directory that
// was once of a cluster is of no other one: what it holds would be served there under the wrong placement and with
// another catalog.
// Thread-safety: functions over files; one caller at a time for each directory, who holds the store.
#ifndef KVLINK_STORE_CLUSTER_NODE_BINDING_H_
#define KVLINK_STORE_CLUSTER_NODE_BINDING_H_

#include <array>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::store::cluster {

struct Binding {
  std::array<uint8_t, 16> cluster_id = {};
  std::string cluster_name;  // when it was bound, for messages
  bool operator==(const Binding&) const = default;
};

std::string SerializeBinding(const Binding& binding);
// INVALID_ARGUMENT: damaged; UNIMPLEMENTED: another format version.
absl::StatusOr<Binding> ParseBinding(absl::string_view bytes);

// Nothing: the directory is of no cluster, or is not there. DATA_LOSS: the file is damaged; UNIMPLEMENTED; errors of
// reading it.
absl::StatusOr<std::optional<Binding>> ReadBinding(const std::string& directory);
// Durable on return. Errors of writing it; what was there is then as before.
absl::Status WriteBinding(const std::string& directory, const Binding& binding);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_BINDING_H_
