// Each change reads, decides, and commits on the condition that the records it was decided on have not changed. The
// record of the epoch is a condition of every change of the placement, so that these happen one after the other: of two
// concurrent drains that would each leave one active member, the second sees the first.
#include "store/cluster/members/administration.h"

#include <sys/random.h>

#include <algorithm>
#include <functional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/cluster/members/contents.h"

namespace kvlink::store::cluster {
namespace {

constexpr absl::Duration kMinRetryPause = absl::Milliseconds(5), kMaxRetryPause = absl::Milliseconds(50);

// A change of one member.
struct Change {
  std::optional<MemberRecord> record;  // to write; nullopt: delete the member
  std::string what;                    // for the record of the epoch
  bool founds = false;                 // adds a founder
  bool done = false;                   // already in effect
};
using Decide = std::function<absl::StatusOr<Change>(const Contents& contents, const MemberRecord* record)>;

absl::StatusOr<Contents> Read(Connection* connection, etcd::Client* client, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto got, client->Get(connection->cluster() + "/", {.prefix = true}, deadline));
  Contents contents(connection->cluster());
  for (const etcd::KeyValue& one : got.found) contents.Put(one);
  contents.set_revision(got.revision);
  KVLINK_RETURN_IF_ERROR(Annotate(contents.Check(), connection->ToString()));
  return contents;
}

// Lists the members that left: a node that is neither a member nor listed was a member before etcd went back.
EpochRecord NextEpoch(const NodeId& id, const Contents& contents, const Change& change) {
  EpochRecord epoch;
  if (contents.epoch().has_value()) epoch = contents.epoch()->record;
  epoch.founders += change.founds ? 1 : 0;
  epoch.change = change.what;
  std::erase(epoch.removed, id);
  if (!change.record.has_value()) epoch.removed.push_back(id);
  if (epoch.removed.size() > kMaxRemoved) epoch.removed.erase(epoch.removed.begin());
  return epoch;
}

etcd::Transaction TransactionOf(const std::string& cluster, const NodeId& id, const Contents& contents,
                                const Change& change) {
  const std::string key = KeyOf(cluster, KeyKind::kMember, id), epoch_key = KeyOf(cluster, KeyKind::kEpoch);
  etcd::Transaction transaction;
  const auto found = contents.members().find(id);
  transaction.conditions.push_back(
      etcd::Compare::ModRevision(key, found == contents.members().end() ? 0 : found->second.revision));
  if (change.record.has_value()) {
    transaction.then.push_back(etcd::PutOp{key, SerializeMember(*change.record)});
  } else {
    transaction.then.push_back(etcd::DeleteOp{key});
    // The node may be a member again with any of its directories.
    transaction.then.push_back(etcd::DeleteOp{KeyOf(cluster, KeyKind::kEntered, id)});
  }
  transaction.conditions.push_back(
      etcd::Compare::ModRevision(epoch_key, contents.epoch().has_value() ? contents.epoch()->revision : 0));
  transaction.then.push_back(etcd::PutOp{epoch_key, SerializeEpoch(NextEpoch(id, contents, change))});
  return transaction;
}

uint64_t EpochOf(const Contents& contents) {
  return contents.epoch().has_value() ? static_cast<uint64_t>(contents.epoch()->revision) : 0;
}

struct Attempt {
  // nullopt: another change came first, or the outcome is unknown; try again.
  std::optional<uint64_t> epoch;
  absl::Status refused;  // by `decide`, not by etcd
  bool unknown = false;  // whether the change was carried out
};

absl::StatusOr<Attempt> TryOnce(Connection* connection, etcd::Client* client, const NodeId& id, const Decide& decide,
                                absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const Contents contents, Read(connection, client, deadline));
  const auto found = contents.members().find(id);
  const auto change = decide(contents, found == contents.members().end() ? nullptr : &found->second.record);
  Attempt attempt;
  if (!change.ok()) {
    attempt.refused = change.status();
    return attempt;
  }
  attempt.epoch = EpochOf(contents);
  if (change->done) return attempt;
  const auto committed = client->Commit(TransactionOf(connection->cluster(), id, contents, *change), deadline);
  attempt.unknown = absl::IsUnknown(committed.status());
  if (!attempt.unknown) KVLINK_RETURN_IF_ERROR(committed.status());
  if (attempt.unknown || !committed->succeeded) {
    attempt.epoch.reset();
  } else {
    attempt.epoch = static_cast<uint64_t>(committed->revision);
  }
  return attempt;
}

absl::StatusOr<uint64_t> Carry(Connection* connection, const NodeId& id, const Decide& decide, absl::Time deadline) {
  std::minstd_rand random(std::random_device{}());
  bool renewed = false, unknown = false;
  do {
    const std::shared_ptr<etcd::Client> client = connection->client();
    const auto tried = TryOnce(connection, client.get(), id, decide, deadline);
    // If etcd went back to an older state or was replaced, retry once with a new client.
    const bool renews = NeedsAnotherClient(tried.status()) && !std::exchange(renewed, true);
    if (renews) KVLINK_RETURN_IF_ERROR(connection->Renew(client));
    if (renews && SteadyNow() < deadline) continue;
    if (!tried.ok()) {
      if (!unknown) return tried.status();
      return absl::UnknownError(absl::StrCat(
          connection->ToString(),
          ": the change may or may not have been made, and etcd cannot be read: ", tried.status().message()));
    }
    KVLINK_RETURN_IF_ERROR(tried->refused);
    if (tried->epoch.has_value()) return *tried->epoch;
    unknown = tried->unknown;
    absl::SleepFor(absl::Nanoseconds(std::uniform_int_distribution<int64_t>(
        absl::ToInt64Nanoseconds(kMinRetryPause), absl::ToInt64Nanoseconds(kMaxRetryPause))(random)));
  } while (SteadyNow() < deadline);
  if (unknown) {
    return absl::UnknownError(
        absl::StrCat(connection->ToString(), ": the change may or may not have been made; check with kvlink members"));
  }
  return absl::AbortedError(
      absl::StrCat(connection->ToString(), ": other changes to the members kept getting in first; try again"));
}

absl::Status NoMember(const Connection& connection, const NodeId& id) {
  return absl::NotFoundError(absl::StrCat(connection.ToString(), " has no member ", IdHex(id)));
}

// Changes one field of an existing member.
absl::StatusOr<uint64_t> Modify(
    Connection* connection, const NodeId& id, absl::Time deadline,
    const std::function<absl::StatusOr<std::string>(const Contents&, MemberRecord*)>& edit) {
  return Carry(
      connection, id,
      [&](const Contents& contents, const MemberRecord* record) -> absl::StatusOr<Change> {
        if (record == nullptr) return NoMember(*connection, id);
        Change change;
        change.record = *record;
        KVLINK_ASSIGN_OR_RETURN(change.what, edit(contents, &*change.record));
        change.what = absl::StrCat(IdHex(id), ": ", change.what);
        change.done = *change.record == *record;
        return change;
      },
      deadline);
}

// EpochRecord::change, of which HasDrained reads these two.
std::string Removed(const NodeId& id) { return absl::StrCat(IdHex(id), ": removed"); }
std::string Drained(const NodeId& id) { return absl::StrCat(IdHex(id), ": has drained and left"); }

bool OthersActive(const Contents& contents, const NodeId& id) {
  return std::any_of(contents.members().begin(), contents.members().end(), [&](const auto& one) {
    return one.first != id && one.second.record.state == MemberState::kActive;
  });
}

absl::Status StillAt(const Contents& contents, uint64_t epoch) {
  if (EpochOf(contents) == epoch) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the placement is now at epoch ", EpochOf(contents), ", not ", epoch));
}

// Call before a change of weight or zone.
absl::Status KeepFormer(const NodeId& id, MemberRecord* record) {
  if (record->former.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(IdHex(id), " still moves from weight ", record->former->weight, " and zone '",
                     record->former->zone, "': wait until kvlink members shows that all members are complete"));
  }
  // A joining member holds nothing yet.
  if (record->state != MemberState::kJoining) record->former = Standing{record->zone, record->weight};
  return absl::OkStatus();
}

absl::StatusOr<std::array<uint8_t, 16>> RandomId() {
  std::array<uint8_t, 16> id;
  if (getrandom(id.data(), id.size(), 0) == static_cast<ssize_t>(id.size())) return id;
  return absl::ErrnoToStatus(errno, "the random number generator");
}

}  // namespace

absl::StatusOr<ClusterSettings> CreateCluster(Connection* connection, ClusterSettings settings, absl::Time deadline) {
  settings.name = connection->cluster();
  KVLINK_RETURN_IF_ERROR(ValidateSettings(settings));
  KVLINK_ASSIGN_OR_RETURN(settings.id, RandomId());
  const std::string key = KeyOf(settings.name, KeyKind::kCluster), value = SerializeCluster(settings);
  const auto client = connection->client();
  const auto made =
      client->Commit({{etcd::Compare::Absent(key)}, {etcd::PutOp{key, value}}, {etcd::GetOp{key}}}, deadline);
  if (made.ok() && made->succeeded) return settings;
  if (!made.ok() && !absl::IsUnknown(made.status())) return made.status();
  // The id is random: if etcd holds it, this call created the cluster.
  KVLINK_ASSIGN_OR_RETURN(const auto got, client->Get(key, {}, deadline));
  if (got.found.empty()) {
    return made.ok() ? absl::AbortedError("the cluster was deleted in the meantime; try again") : made.status();
  }
  if (got.found[0].value == value) return settings;
  const auto there = ParseCluster(settings.name, got.found[0].value);
  return absl::AlreadyExistsError(absl::StrCat(connection->ToString(), ": a cluster of this name already exists",
                                               there.ok() ? absl::StrCat(", ", IdHex(there->id)) : ""));
}

absl::StatusOr<ClusterSettings> SetDatabase(Connection* connection, const std::string& database, bool unused,
                                            absl::Time deadline) {
  const std::string key = KeyOf(connection->cluster(), KeyKind::kCluster);
  const auto client = connection->client();
  KVLINK_ASSIGN_OR_RETURN(const auto got, client->Get(key, {}, deadline));
  if (got.found.empty()) return absl::NotFoundError(absl::StrCat(connection->ToString(), ": there is no such cluster"));
  KVLINK_ASSIGN_OR_RETURN(ClusterSettings settings, ParseCluster(connection->cluster(), got.found[0].value));
  settings.database = database;
  KVLINK_RETURN_IF_ERROR(ValidateSettings(settings));
  // Every change of the members writes the record of the epoch.
  const std::string epoch_key = KeyOf(connection->cluster(), KeyKind::kEpoch);
  etcd::Transaction sets{{etcd::Compare::ModRevision(key, got.found[0].mod_revision)},
                         {etcd::PutOp{key, SerializeCluster(settings)}},
                         {etcd::GetOp{epoch_key}}};
  if (unused) sets.conditions.push_back(etcd::Compare::Absent(epoch_key));
  KVLINK_ASSIGN_OR_RETURN(const auto committed, client->Commit(sets, deadline));
  if (committed.succeeded) return settings;
  if (unused && !committed.results[0].found.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        connection->ToString(),
        ": its first node has joined meanwhile, with the database named before, which stays. If tables were "
        "made in the other one, drop them before you restore the catalog there"));
  }
  return absl::AbortedError(absl::StrCat(connection->ToString(), ": its record changed meanwhile; try again"));
}

absl::StatusOr<uint64_t> Drain(Connection* connection, const NodeId& id, absl::Time deadline) {
  return Modify(
      connection, id, deadline, [&](const Contents& contents, MemberRecord* record) -> absl::StatusOr<std::string> {
        if (record->state == MemberState::kJoining) {
          return absl::FailedPreconditionError(absl::StrCat(
              IdHex(id), " is joining and has nothing to hand over; remove it with kvlink members remove"));
        }
        if (!OthersActive(contents, id) && record->state == MemberState::kActive) {
          return absl::FailedPreconditionError(absl::StrCat(
              IdHex(id), " is the only active member, so none could take over its encodings; add a node first"));
        }
        record->state = MemberState::kDraining;
        return "drains";
      });
}

absl::StatusOr<uint64_t> CancelDrain(Connection* connection, const NodeId& id, absl::Time deadline) {
  return Modify(connection, id, deadline, [&](const Contents&, MemberRecord* record) -> absl::StatusOr<std::string> {
    if (record->state == MemberState::kJoining) {
      return absl::FailedPreconditionError(absl::StrCat(IdHex(id), " is joining, not draining"));
    }
    record->state = MemberState::kActive;
    return "stays";
  });
}

absl::StatusOr<uint64_t> SetWeight(Connection* connection, const NodeId& id, uint32_t weight, absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateWeight(weight));
  return Modify(connection, id, deadline, [&](const Contents&, MemberRecord* record) -> absl::StatusOr<std::string> {
    if (record->weight != weight) KVLINK_RETURN_IF_ERROR(KeepFormer(id, record));
    record->weight = weight;
    return absl::StrCat("weight ", weight);
  });
}

absl::StatusOr<uint64_t> SetZone(Connection* connection, const NodeId& id, const std::string& zone,
                                 absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateZone(zone));
  return Modify(connection, id, deadline, [&](const Contents&, MemberRecord* record) -> absl::StatusOr<std::string> {
    if (record->zone != zone) KVLINK_RETURN_IF_ERROR(KeepFormer(id, record));
    record->zone = zone;
    return absl::StrCat("zone '", zone, "'");
  });
}

absl::StatusOr<uint64_t> Remove(Connection* connection, const NodeId& id, bool force, absl::Time deadline) {
  bool seen = false;
  return Carry(
      connection, id,
      [&](const Contents& contents, const MemberRecord* record) -> absl::StatusOr<Change> {
        if (record == nullptr && !seen) return NoMember(*connection, id);
        Change change;
        change.done = record == nullptr;  // by the previous attempt, or another caller
        change.what = Removed(id);
        if (!change.done && !force && contents.alive().contains(id)) {
          return absl::FailedPreconditionError(
              absl::StrCat(IdHex(id), " at ", record->address,
                           " is alive: let it hand over its encodings with kvlink drain, or remove it with --force"));
        }
        // Without it no member would own anything, and draining members would have none to wait for.
        if (!change.done && !force && record->state == MemberState::kActive && contents.members().size() > 1 &&
            !OthersActive(contents, id)) {
          return absl::FailedPreconditionError(
              absl::StrCat(IdHex(id), " at ", record->address,
                           " is the only active member, to which the draining ones hand over: cancel a drain with "
                           "kvlink drain --cancel, wait until a joining member is active, or remove it with --force"));
        }
        seen = true;
        return change;
      },
      deadline);
}

absl::StatusOr<uint64_t> CompleteJoin(Connection* connection, const NodeId& id, uint64_t epoch, absl::Time deadline) {
  return Modify(connection, id, deadline,
                [&](const Contents& contents, MemberRecord* record) -> absl::StatusOr<std::string> {
                  if (record->state != MemberState::kJoining) return "";  // done
                  KVLINK_RETURN_IF_ERROR(StillAt(contents, epoch));
                  for (const auto& [other, member] : contents.members()) {
                    if (!HoldsUpJoins(member.record.state, member.record.former)) continue;
                    return absl::FailedPreconditionError(
                        absl::StrCat(IdHex(id), " joins once the change of ", IdHex(other), " is complete"));
                  }
                  record->state = MemberState::kActive;
                  return "has joined";
                });
}

bool HoldsUpJoins(MemberState state, const std::optional<Standing>& former) {
  return former.has_value() && state != MemberState::kDraining;
}

absl::StatusOr<uint64_t> CompleteMove(Connection* connection, const NodeId& id, uint64_t epoch, absl::Time deadline) {
  return Modify(connection, id, deadline,
                [&](const Contents& contents, MemberRecord* record) -> absl::StatusOr<std::string> {
                  if (!record->former.has_value()) return "";  // done
                  KVLINK_RETURN_IF_ERROR(StillAt(contents, epoch));
                  record->former.reset();
                  return "has moved";
                });
}

absl::StatusOr<uint64_t> CompleteDrain(Connection* connection, const NodeId& id, uint64_t epoch, const Filled& filled,
                                       absl::Time deadline) {
  bool seen = false;
  return Carry(
      connection, id,
      [&](const Contents& contents, const MemberRecord* record) -> absl::StatusOr<Change> {
        if (record == nullptr && !seen) return NoMember(*connection, id);
        Change change;
        change.done = record == nullptr;
        change.what = Drained(id);
        if (change.done) return change;
        if (record->state != MemberState::kDraining) {
          return absl::FailedPreconditionError(absl::StrCat(IdHex(id), " is not draining"));
        }
        KVLINK_RETURN_IF_ERROR(StillAt(contents, epoch));
        if (!OthersActive(contents, id)) {
          return absl::FailedPreconditionError(absl::StrCat(IdHex(id), " cannot leave: no other member is active"));
        }
        if (!filled(contents.progress())) {
          // An attempt before this one may still be carried out.
          return absl::Status(seen ? absl::StatusCode::kUnknown : absl::StatusCode::kFailedPrecondition,
                              absl::StrCat(IdHex(id), " leaves once the others hold what it holds"));
        }
        seen = true;
        return change;
      },
      deadline);
}

absl::StatusOr<bool> HasDrained(Connection* connection, const NodeId& id, absl::Time deadline) {
  const std::string key = KeyOf(connection->cluster(), KeyKind::kEpoch);
  const auto client = connection->client();
  etcd::GetOptions before;
  for (size_t i = 0; i < kMaxRemoved; ++i) {
    const auto got = client->Get(key, before, deadline);
    if (absl::IsOutOfRange(got.status())) break;  // compacted
    KVLINK_RETURN_IF_ERROR(got.status());
    if (got->found.empty()) break;
    KVLINK_ASSIGN_OR_RETURN(const EpochRecord epoch, ParseEpoch(got->found[0].value));
    if (epoch.change == Drained(id)) return true;
    if (epoch.change == Removed(id)) return false;
    before.revision = got->found[0].mod_revision - 1;
  }
  return absl::NotFoundError(
      absl::StrCat(connection->ToString(), ": etcd does not tell any more how ", IdHex(id), " left"));
}

namespace {

// ABORTED if another living member has this address: requests to that member would reach this node. May pass later,
// since its lease may be about to end.
absl::Status CheckAddress(const Contents& contents, const NodeId& id, const std::string& address) {
  for (const auto& [other, alive] : contents.alive()) {
    if (other == id || alive.record.address != address || !contents.members().contains(other)) continue;
    return absl::AbortedError(absl::StrCat("node ", IdHex(other), " is alive at ", address, ", so node ", IdHex(id),
                                           " cannot use this address too: give each node its own, "
                                           "with --advertise if it differs from --listen"));
  }
  return absl::OkStatus();
}

enum class Adds {
  kAnyone,
  kReturning,  // any node that was not removed
  kNobody,
};

// Refuses a node that has no protocol in common with some living member: they could neither write to nor copy from each
// other, and every drain would be held up. A cluster without living members may be restarted with any build.
absl::Status CheckProtocol(const Contents& contents, const NodeId& id, ProtocolRange spoken) {
  for (const auto& [other, alive] : contents.alive()) {
    const auto member = contents.members().find(other);
    if (other == id || member == contents.members().end()) continue;
    KVLINK_RETURN_IF_ERROR(Annotate(CommonProtocol(spoken, member->second.record.protocol).status(),
                                    absl::StrCat("node ", IdHex(id), " cannot be a member beside node ", IdHex(other),
                                                 " at ", alive.record.address)));
  }
  return absl::OkStatus();
}

absl::StatusOr<MemberDraft> DraftMember(Connection* connection, const NodeId& id, const MemberRecord& record, Adds adds,
                                        absl::Time deadline) {
  // A record that readers refuse would stop the whole cluster.
  KVLINK_RETURN_IF_ERROR(ParseMember(SerializeMember(record)).status());
  MemberDraft draft;
  const auto decide = [&](const Contents& contents, const MemberRecord* there) -> absl::StatusOr<Change> {
    Change change;
    draft = {record};
    MemberRecord& holds = draft.record;
    KVLINK_RETURN_IF_ERROR(CheckAddress(contents, id, record.address));
    KVLINK_RETURN_IF_ERROR(CheckProtocol(contents, id, record.protocol));
    if (there != nullptr) {
      holds.state = there->state;
      holds.zone = there->zone;
      holds.weight = there->weight;
      holds.former = there->former;
      draft.replaces = contents.members().find(id)->second.revision;
      change.done = true;
    } else {
      if (adds == Adds::kNobody || (adds == Adds::kReturning && contents.Removed(id))) return NoMember(*connection, id);
      if (contents.members().size() >= kMaxMembers) {
        return absl::ResourceExhaustedError(
            absl::StrCat(connection->ToString(), " already has ", kMaxMembers, " members, the maximum"));
      }
      const int founders = contents.epoch().has_value() ? contents.epoch()->record.founders : 0;
      change.founds = founders < contents.settings()->record.copies;
      holds.state = change.founds ? MemberState::kActive : MemberState::kJoining;
      change.what = absl::StrCat(IdHex(id), " at ", record.address, ": joins");
    }
    change.record = holds;
    return change;
  };
  KVLINK_ASSIGN_OR_RETURN(const uint64_t epoch, Carry(connection, id, decide, deadline));
  if (draft.replaces == 0) draft.replaces = static_cast<int64_t>(epoch);  // added by the same transaction
  return draft;
}

}  // namespace

absl::StatusOr<MemberDraft> AddMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                      absl::Time deadline) {
  return DraftMember(connection, id, record, Adds::kAnyone, deadline);
}

absl::StatusOr<MemberDraft> ReturnMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                         absl::Time deadline) {
  return DraftMember(connection, id, record, Adds::kReturning, deadline);
}

absl::StatusOr<MemberDraft> UpdateMember(Connection* connection, const NodeId& id, const MemberRecord& record,
                                         absl::Time deadline) {
  return DraftMember(connection, id, record, Adds::kNobody, deadline);
}

}  // namespace kvlink::store::cluster
