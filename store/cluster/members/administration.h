// Changes a cluster: creates it, and sets the states, weights and zones of its members.
//
// Each change is one etcd transaction, conditional on the records it was decided on, the record of the epoch among
// them: two changes never mix, and each placement has an epoch of its own. If other changes intervene, a function reads
// again and retries until the deadline. If the answer to a change was lost, the function reads again to find out
// whether it was carried out; a change that is already in effect is OK.
//
// Errors of all functions: those of etcd::Client, with UNKNOWN only if etcd could not be read again in time. NOT_FOUND:
// no such cluster or member. ABORTED: other changes intervened until the deadline. UNIMPLEMENTED: a record has a newer
// format; INVALID_ARGUMENT: a record is malformed.
//
// Thread-safety: all functions; they keep no state. The connection outlives the call.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_ADMINISTRATION_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_ADMINISTRATION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/cluster/members/connection.h"
#include "store/cluster/members/records.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

// Creates the cluster that `connection` names, with a random id; `settings.id` and `settings.name` are ignored. Returns
// its settings. ALREADY_EXISTS: a cluster has this name. INVALID_ARGUMENT: as ValidateSettings.
absl::StatusOr<ClusterSettings> CreateCluster(Connection* connection, ClusterSettings settings, absl::Time deadline);

// Replaces the connection string of the cluster's database, which processes read when they start; if `unused`, only of
// a cluster that never had a member. Returns the settings. INVALID_ARGUMENT: as ValidateSettings. NOT_FOUND: there is
// no such cluster. FAILED_PRECONDITION: it is not unused. ABORTED: its record changed meanwhile. UNKNOWN: the change
// may or may not have been made.
absl::StatusOr<ClusterSettings> SetDatabase(Connection* connection, const std::string& database, bool unused,
                                            absl::Time deadline);

// Each of the following returns the epoch from which the change holds.
//
// ACTIVE to DRAINING: the member keeps serving while others take over what it holds, then leaves by CompleteDrain.
// FAILED_PRECONDITION: it is joining (it holds nothing to hand over: remove it), or no other member is active.
absl::StatusOr<uint64_t> Drain(Connection* connection, const NodeId& id, absl::Time deadline);
// DRAINING to ACTIVE. FAILED_PRECONDITION: it is joining.
absl::StatusOr<uint64_t> CancelDrain(Connection* connection, const NodeId& id, absl::Time deadline);
// A member that is not joining keeps its former standing as well, until CompleteMove: what it and others hold is served
// from there while it moves. FAILED_PRECONDITION: it still has a former standing. Changes of several members may run at
// once; what was written meanwhile only to nodes that the later change passes over is then a miss.
absl::StatusOr<uint64_t> SetWeight(Connection* connection, const NodeId& id, uint32_t weight, absl::Time deadline);
absl::StatusOr<uint64_t> SetZone(Connection* connection, const NodeId& id, const std::string& zone,
                                 absl::Time deadline);
// Deletes the member. The cluster loses what only that member holds. FAILED_PRECONDITION, unless `force`: it is alive,
// or it is the only active one of several members. A node that is removed while it runs ends. One that learns of its
// removal late ends as well, unless kMaxRemoved other members were removed meanwhile: it then joins again.
absl::StatusOr<uint64_t> Remove(Connection* connection, const NodeId& id, bool force, absl::Time deadline);

// For the node itself, once it holds all that it owns at `epoch`. JOINING to ACTIVE. FAILED_PRECONDITION: the placement
// now has another epoch, or a member that HoldsUpJoins.
absl::StatusOr<uint64_t> CompleteJoin(Connection* connection, const NodeId& id, uint64_t epoch, absl::Time deadline);
// Whether the member keeps others from becoming ACTIVE: beside a former standing they would, at once, own slots of
// which they hold nothing. Beside that of a DRAINING member they own no more than they were filled with, as if it were
// gone; and it may be waiting for them, to leave.
bool HoldsUpJoins(MemberState state, const std::optional<Standing>& former);
// For the node itself, once all members hold, at `epoch`, what they gain. Forgets its former standing.
// FAILED_PRECONDITION: the placement now has another epoch.
absl::StatusOr<uint64_t> CompleteMove(Connection* connection, const NodeId& id, uint64_t epoch, absl::Time deadline);
// For the node itself, once the others hold, at `epoch`, what it held: `filled` tells, by the progress that etcd has
// now, since a view may be late, and what a member holds may be less than it was. Deletes a DRAINING member.
// FAILED_PRECONDITION: as CompleteJoin, or it is not draining, or no other member is active, or `filled` is false.
using Filled = std::function<bool(const std::map<NodeId, ProgressRecord>& progress)>;
absl::StatusOr<uint64_t> CompleteDrain(Connection* connection, const NodeId& id, uint64_t epoch, const Filled& filled,
                                       absl::Time deadline);

// How a node that is no longer a member left: true: by CompleteDrain; false: by Remove. NOT_FOUND: the last changes
// that etcd has of the members are none of these.
absl::StatusOr<bool> HasDrained(Connection* connection, const NodeId& id, absl::Time deadline);

// What a member's record is to be, and the etcd revision of the one that it replaces.
struct MemberDraft {
  MemberRecord record;
  int64_t replaces = 0;
};
// For Registration, which writes the draft in the transaction that makes the process the member: a process that comes
// second changes nothing. Adds the member if there is none, as joining; a founder is active at once. If the member
// exists, nothing is written; the draft has the address, build and protocol of `record`, and keeps its state, weight
// and zone. RESOURCE_EXHAUSTED: there are kMaxMembers. INVALID_ARGUMENT: readers would refuse the record. ABORTED:
// another member is alive at its address. UNIMPLEMENTED: a living member speaks none of the record's protocols.
absl::StatusOr<MemberDraft> AddMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                      absl::Time deadline);
// As AddMember, for a node that was a member before etcd was restored to an older state. NOT_FOUND: the node was
// removed, or left.
absl::StatusOr<MemberDraft> ReturnMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                         absl::Time deadline);
// As AddMember, for an existing member only. NOT_FOUND: the node is not a member, or no longer one.
absl::StatusOr<MemberDraft> UpdateMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                         absl::Time deadline);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_ADMINISTRATION_H_
