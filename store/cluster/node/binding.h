// Binds a store directory to a cluster, by its file CLUSTER (docs/formats.md "Store directory"). A directory that
// has belonged to one cluster may join no other, which would serve its encodings under the wrong placement and with
// another catalog.
//
// Thread-safety: all functions; the writer of a directory must have its store open.
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
  std::string cluster_name;  // at the time of binding, for messages
  bool operator==(const Binding&) const = default;
};

std::string SerializeBinding(const Binding& binding);
// INVALID_ARGUMENT: damaged; UNIMPLEMENTED: another format version.
absl::StatusOr<Binding> ParseBinding(absl::string_view bytes);

// nullopt if the directory belongs to no cluster, or does not exist. DATA_LOSS: the file is damaged; UNIMPLEMENTED:
// another format version; errors of reading it.
absl::StatusOr<std::optional<Binding>> ReadBinding(const std::string& directory);
// Durable on return. Errors of writing the file, with the previous one unchanged.
absl::Status WriteBinding(const std::string& directory, const Binding& binding);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_BINDING_H_
