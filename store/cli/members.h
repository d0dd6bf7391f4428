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

// The member with the address `name`, or whose node id begins with it (at least four digits). INVALID_ARGUMENT: it is
// neither an address nor digits, or several members match; NOT_FOUND: none does.
absl::StatusOr<store::cluster::NodeId> FindMember(const store::cluster::View& view, absl::string_view name);

struct DrainOptions {
  bool cancel = false;
  bool wait = false;  // until the member has left
  bool json = false;
};

// kvlink drain NODE: starts the member's drain, or cancels it with `cancel`, and prints what became of it.
// Errors of ClusterAddressOf, Membership::Open, FindMember, Drain and CancelDrain. With `wait`: ABORTED: the drain
// was cancelled, the member was removed, or etcd was set back; FAILED_PRECONDITION: the member cannot leave;
// DEADLINE_EXCEEDED, naming the members waited for. Errors of HasDrained.
absl::Status DrainMember(const ClusterFlags& flags, const std::string& node, const DrainOptions& options,
                         absl::Time deadline);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_MEMBERS_H_
