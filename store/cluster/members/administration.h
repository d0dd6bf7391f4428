// What changes a cluster: its making, and the states, weights and zones of its members. Each change is one transaction
// of etcd that is carried out only on what was read before it, together with the record of the epoch: two changes never
// mix, and each placement has an epoch of its own. What somebody else changed meanwhile is read again, until the
// deadline. Whether a change whose answer was lost was carried out is found by reading: a change that is there already
// is OK.
//
// Errors common to all: those of etcd::Client, but UNKNOWN only where etcd could not be read again in time. NOT_FOUND:
// no such cluster, or member. ABORTED: others changed the members all the time. UNIMPLEMENTED, INVALID_ARGUMENT: a
// record is of a newer format, or none. Thread-safety: all functions. They keep nothing.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_ADMINISTRATION_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_ADMINISTRATION_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/cluster/members/connection.h"
#include "store/cluster/members/records.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

// Makes the cluster that `connection` names; `settings.id` and `name` are set here. Returns its settings.
// ALREADY_EXISTS: there is one. INVALID_ARGUMENT: as ValidateSettings.
absl::StatusOr<ClusterSettings> CreateCluster(Connection* connection, ClusterSettings settings, absl::Time deadline);

// Each returns the epoch from which the change holds.
//
// ACTIVE to DRAINING: the member serves on while others take over what it holds, and then leaves by CompleteDrain.
// FAILED_PRECONDITION: it is joining (it holds nothing to hand over: remove it), or no other is active.
absl::StatusOr<uint64_t> Drain(Connection* connection, const NodeId& id, absl::Time deadline);
// DRAINING to ACTIVE. FAILED_PRECONDITION: it is joining.
absl::StatusOr<uint64_t> CancelDrain(Connection* connection, const NodeId& id, absl::Time deadline);
absl::StatusOr<uint64_t> SetWeight(Connection* connection, const NodeId& id, uint32_t weight, absl::Time deadline);
absl::StatusOr<uint64_t> SetZone(Connection* connection, const NodeId& id, const std::string& zone,
                                 absl::Time deadline);
// Deletes the member. What only it holds is lost to the cluster. FAILED_PRECONDITION, unless `force`: it is alive, or
// the only active one while there are others. A node that is removed while it runs ends. One that hears of it late ends
// as well, unless kMaxRemoved others were removed meanwhile: it then joins again.
absl::StatusOr<uint64_t> Remove(Connection* connection, const NodeId& id, bool force, absl::Time deadline);

// For the node itself. JOINING to ACTIVE: it holds what it owns at `epoch`. FAILED_PRECONDITION: the placement has
// another epoch by now.
absl::StatusOr<uint64_t> CompleteJoin(Connection* connection, const NodeId& id, uint64_t epoch, absl::Time deadline);
// Deletes a DRAINING member: the others hold at `epoch` what it held. FAILED_PRECONDITION: as CompleteJoin, it does not
// drain (any more), or no other is active.
absl::StatusOr<uint64_t> CompleteDrain(Connection* connection, const NodeId& id, uint64_t epoch, absl::Time deadline);

// For Registration. Adds the member if there is none, as joining; the first members of a new cluster, as many as it has
// copies, are active at once, since there is nothing to fill them with. Of one that is there, sets address, build and
// protocol; state, weight and zone stay. Returns the record that holds then. RESOURCE_EXHAUSTED: there are kMaxMembers.
// INVALID_ARGUMENT: no reader would take the record. ABORTED: another member is alive at its address. UNIMPLEMENTED:
// one that is alive speaks no protocol that the record names.
absl::StatusOr<MemberRecord> AddMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                       absl::Time deadline);
// As AddMember, for a node that was a member before etcd was set back. NOT_FOUND: it was removed, or left.
absl::StatusOr<MemberRecord> ReturnMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                          absl::Time deadline);
// As AddMember, of a member that is there. NOT_FOUND: it is none (any more).
absl::StatusOr<MemberRecord> UpdateMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                          absl::Time deadline);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_ADMINISTRATION_H_
