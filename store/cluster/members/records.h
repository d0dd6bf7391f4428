// What etcd holds of a cluster: JSON values under "/kvlink/NAME/" (docs/formats.md "Cluster records").
//
// Readers check every field they know, take no number out of its range, and ignore fields they do not know. Each record
// has a `format`; one above this build's is refused by name.
// Thread-safety: values and pure functions.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_RECORDS_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_RECORDS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/data.h"
#include "store/cluster/hot.h"
#include "store/cluster/placement.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

inline constexpr int kRecordFormat = 1;
inline constexpr size_t kMaxRecordBytes = size_t{16} << 10;
inline constexpr size_t kMaxRemoved = 64;
inline constexpr size_t kMaxZoneBytes = 64, kMaxClusterNameBytes = 64, kMaxDatabaseBytes = 2048;

// Names of a cluster and of zones: letters, digits, '-', '_' and '.'; a zone may be empty. INVALID_ARGUMENT, naming
// which.
absl::Status ValidateClusterName(absl::string_view name);
absl::Status ValidateZone(absl::string_view zone);
// 1 .. kMaxWeight. INVALID_ARGUMENT.
absl::Status ValidateWeight(int64_t weight);
// Numbers in their range, at least one copy acknowledged, and a connection string of PostgreSQL that holds no password
// (etcd is read by everybody; who connects has it in PGPASSFILE). INVALID_ARGUMENT.
absl::Status ValidateSettings(const ClusterSettings& settings);

// One member, but for its node id, which is in the key.
struct MemberRecord {
  std::string address;  // host:port of its control service
  std::string zone;
  uint32_t weight = 1;
  MemberState state = MemberState::kJoining;
  std::string build;
  ProtocolRange protocol;  // of data messages
  bool operator==(const MemberRecord& other) const;
};
// Under the lease of a running node.
struct AliveRecord {
  uint64_t incarnation = 0;
  std::string address;  // as in its MemberRecord: which process it is, where two have one node id
};
// How far a member is with holding what it owns; under its lease.
struct ProgressRecord {
  uint64_t epoch = 0;       // of the placement that the numbers are of
  uint32_t slots = 0;       // that it owns
  uint32_t slots_done = 0;  // of them, those of which it holds all that the other owners have
  uint64_t bytes_left = 0;  // to copy here, as far as is known
  uint64_t bytes_per_second = 0;
  // The member has all it owns at `epoch`.
  bool complete() const { return slots_done == slots; }
  bool operator==(const ProgressRecord&) const = default;
};
// Written with every change of the placement, whose epoch is the revision of etcd at which this was written last.
struct EpochRecord {
  int founders = 0;    // members that were active at once, since there was nothing to fill them with
  std::string change;  // the last one, for people
  // Members that left or were removed and have not joined again: the last kMaxRemoved, the latest last.
  std::vector<NodeId> removed;
};

std::string SerializeCluster(const ClusterSettings& settings);
std::string SerializeMember(const MemberRecord& record);
std::string SerializeAlive(const AliveRecord& record);
std::string SerializeProgress(const ProgressRecord& record);
std::string SerializeEpoch(const EpochRecord& record);
// Leaves out the last of each list where a record may not hold all of them.
std::string SerializeHot(const HotRecord& record);

// INVALID_ARGUMENT: not such a record, or a field that is missing, of another kind, or out of its range, named.
// UNIMPLEMENTED: of a newer format. `name`: of the cluster, which is in the key.
absl::StatusOr<ClusterSettings> ParseCluster(absl::string_view name, absl::string_view json);
absl::StatusOr<MemberRecord> ParseMember(absl::string_view json);
absl::StatusOr<AliveRecord> ParseAlive(absl::string_view json);
absl::StatusOr<ProgressRecord> ParseProgress(absl::string_view json);
absl::StatusOr<EpochRecord> ParseEpoch(absl::string_view json);
absl::StatusOr<HotRecord> ParseHot(absl::string_view json);

// 32 hexadecimal digits in lower case.
std::string IdHex(const NodeId& id);
// Nothing: `hex` is not such.
std::optional<NodeId> IdFromHex(absl::string_view hex);
// "joining", "active", "draining".
absl::string_view StateName(MemberState state);

// Keys, behind kKeyPrefix.
inline constexpr char kKeyPrefix[] = "/kvlink/";
enum class KeyKind { kCluster, kEpoch, kMember, kAlive, kProgress, kHot };
// `id`: of a member; nothing of it where the kind has none.
std::string KeyOf(absl::string_view cluster, KeyKind kind, const NodeId& id = {});
struct ParsedKey {
  KeyKind kind = KeyKind::kCluster;
  NodeId id = {};
};
// Nothing: not a key of this cluster that this build knows.
std::optional<ParsedKey> ParseKey(absl::string_view cluster, absl::string_view key);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_RECORDS_H_
