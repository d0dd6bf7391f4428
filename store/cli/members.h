// Members of a cluster as an operator names them. Thread-safety: functions that may be called from any thread.
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

// The member that `name` stands for: its address, or the first digits of its node id, at least four. INVALID_ARGUMENT:
// it stands for several, or is neither; NOT_FOUND: for none.
absl::StatusOr<store::cluster::NodeId> FindMember(const store::cluster::View& view, absl::string_view name);

// kvlink drain NODE: says that the member drains (or, with `cancel`, that it stays), and with `wait` waits until it has
// left, until `deadline`.
absl::Status DrainMember(const ClusterFlags& flags, const std::string& node, bool cancel, bool wait,
                         absl::Time deadline);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_MEMBERS_H_
