// Members of a cluster as an operator names them. Thread-safety: all functions.
#ifndef KVLINK_STORE_CLI_MEMBERS_H_
#define KVLINK_STORE_CLI_MEMBERS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "store/cli/cluster_flags.h"
#include "store/cluster/view.h"

namespace kvlink::cli {

// Finds a member by its address, or by the first digits of its node id, at least four. INVALID_ARGUMENT: several
// members match, or `name` is neither; NOT_FOUND: none matches.
absl::StatusOr<store::cluster::NodeId> FindMember(const store::cluster::View& view, absl::string_view name);

// kvlink drain NODE: makes the member drain (or, with `cancel`, stay), and with `wait` waits until it has left, at most
// until `deadline`.
absl::Status DrainMember(const ClusterFlags& flags, const std::string& node, bool cancel, bool wait,
                         absl::Time deadline);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_MEMBERS_H_
