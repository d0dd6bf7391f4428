// Binds a store directory to a cluster, by its file CLUSTER (docs/formats.md "Store directory"). A directory that
// has belonged to one cluster may join no other, which would serve its encodings under the wrong placement and with
// another catalog. The file ENTERED tells the directory from older copies of it (store/cluster/members/registration.h).
//
// Thread-safety: all functions; the writer of a directory must have its store open.
#ifndef KVLINK_STORE_CLUSTER_NODE_BINDING_H_
#define KVLINK_STORE_CLUSTER_NODE_BINDING_H_

#include <array>
#include <cstdint>
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

std::string SerializeEntered(uint64_t entered);
// INVALID_ARGUMENT: damaged; UNIMPLEMENTED: another format version.
absl::StatusOr<uint64_t> ParseEntered(absl::string_view bytes);

// RegistrationOptions::entered: 0 if the directory was never a member, or does not exist. Errors of ReadBinding.
absl::StatusOr<uint64_t> ReadEntered(const std::string& directory);
// As WriteBinding.
absl::Status WriteEntered(const std::string& directory, uint64_t entered);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_BINDING_H_
