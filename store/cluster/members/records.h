// The records that etcd holds of a cluster: JSON values under "/kvlink/NAME/" (docs/formats.md "Cluster records").
//
// Readers check every field they know, refuse numbers out of range, and ignore fields they do not know. Each record has
// a `format`; readers refuse one above this build's.
//
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
#include "absl/time/time.h"
#include "proto/data.h"
#include "store/cluster/hot.h"
#include "store/cluster/placement.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

inline constexpr int kRecordFormat = 1;
inline constexpr size_t kMaxRecordBytes = size_t{16} << 10;
inline constexpr size_t kMaxRemoved = 64;
inline constexpr size_t kMaxZoneBytes = 64, kMaxClusterNameBytes = 64, kMaxDatabaseBytes = 2048;

// Names of clusters and zones consist of letters, digits, '-', '_' and '.'; a zone may be empty. INVALID_ARGUMENT, with
// the name in the message.
absl::Status ValidateClusterName(absl::string_view name);
absl::Status ValidateZone(absl::string_view zone);
// INVALID_ARGUMENT: `weight` is not in [1, kMaxWeight].
absl::Status ValidateWeight(int64_t weight);
// INVALID_ARGUMENT: the name is not valid, a number is out of range, no copy is acknowledged, or the PostgreSQL
// connection string holds a password (every process of the cluster reads etcd; passwords belong in PGPASSFILE).
absl::Status ValidateSettings(const ClusterSettings& settings);

// One member, without its node id, which is in the key.
struct MemberRecord {
  std::string address;  // host:port of its control service
  std::string zone;
  uint32_t weight = 1;
  MemberState state = MemberState::kJoining;
  std::string build;
  ProtocolRange protocol;               // of data messages
  std::optional<Standing> former = {};  // as Member::former
  bool operator==(const MemberRecord& other) const;
};
// Under the lease of a running node. Without a lease, under another key: the node's last entry (registration.h).
struct AliveRecord {
  uint64_t incarnation = 0;
  std::string address;  // as in its MemberRecord; tells apart two processes with one node id
};
// How far a member has filled the slots that it owns; under its lease.
struct ProgressRecord {
  uint64_t epoch = 0;       // of the placement that the numbers refer to
  uint32_t slots = 0;       // that the member owns
  uint32_t slots_done = 0;  // of those, slots of which it holds all that the other owners hold
  uint64_t bytes_left = 0;  // still to be copied, as far as known
  uint64_t bytes_per_second = 0;
  // Whether the member holds all that it owns at `epoch`.
  bool complete() const { return slots_done == slots; }
  // Infinite: the rate is not known.
  absl::Duration time_left() const {
    if (bytes_left == 0) return absl::ZeroDuration();
    if (bytes_per_second == 0) return absl::InfiniteDuration();
    return absl::Seconds(static_cast<double>(bytes_left) / static_cast<double>(bytes_per_second));
  }
  bool operator==(const ProgressRecord&) const = default;
};
// Written with every change of the placement. The epoch is the etcd revision of the last write of this record.
struct EpochRecord {
  int founders = 0;    // how many members have been active at once, since there was nothing to fill them with
  std::string change;  // the latest one, for people to read
  // Members that left or were removed and have not joined again: the last kMaxRemoved, the latest last.
  std::vector<NodeId> removed;
};

std::string SerializeCluster(const ClusterSettings& settings);
std::string SerializeMember(const MemberRecord& record);
std::string SerializeAlive(const AliveRecord& record);
std::string SerializeProgress(const ProgressRecord& record);
std::string SerializeEpoch(const EpochRecord& record);
// Omits the last elements of the lists if they exceed the limits of a record.
std::string SerializeHot(const HotRecord& record);

// INVALID_ARGUMENT: not such a record, or a field, named in the message, is missing, of the wrong type, or out of
// range. UNIMPLEMENTED: a newer format. `name`: the cluster's, which is in the key.
absl::StatusOr<ClusterSettings> ParseCluster(absl::string_view name, absl::string_view json);
absl::StatusOr<MemberRecord> ParseMember(absl::string_view json);
absl::StatusOr<AliveRecord> ParseAlive(absl::string_view json);
absl::StatusOr<ProgressRecord> ParseProgress(absl::string_view json);
absl::StatusOr<EpochRecord> ParseEpoch(absl::string_view json);
absl::StatusOr<HotRecord> ParseHot(absl::string_view json);

// 32 lower-case hexadecimal digits.
std::string IdHex(const NodeId& id);
// nullopt if `hex` is not 32 lower-case hexadecimal digits.
std::optional<NodeId> IdFromHex(absl::string_view hex);
// "joining", "active", "draining".
absl::string_view StateName(MemberState state);

// Keys, without the prefix kKeyPrefix.
inline constexpr char kKeyPrefix[] = "/kvlink/";
enum class KeyKind { kCluster, kEpoch, kMember, kEntered, kAlive, kProgress, kHot };
// `id`: of a member; ignored if keys of this kind have none.
std::string KeyOf(absl::string_view cluster, KeyKind kind, const NodeId& id = {});
struct ParsedKey {
  KeyKind kind = KeyKind::kCluster;
  NodeId id = {};
};
// nullopt if this is not a key of this cluster that this build knows.
std::optional<ParsedKey> ParseKey(absl::string_view cluster, absl::string_view key);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_RECORDS_H_
