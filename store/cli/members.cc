// kvlink cluster, members and drain NODE: administration of a cluster, through its etcd alone. Nodes act on what they
// find there.
#include "store/cli/members.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/cli/progress.h"
#include "base/cli/table.h"
#include "base/clock.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/cluster_store.h"
#include "store/cli/commands.h"
#include "store/cluster/members/administration.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/node/member_node.h"

namespace kvlink::cli {
namespace {

namespace cluster = store::cluster;

constexpr absl::Duration kLook = absl::Milliseconds(250);
constexpr size_t kMinPrefix = 4;

absl::StatusOr<std::unique_ptr<cluster::Membership>> OpenCluster(const ClusterFlags& flags) {
  cluster::MembershipOptions options;
  KVLINK_ASSIGN_OR_RETURN(options.address, ClusterAddressOf(flags));
  return cluster::Membership::Open(std::move(options), SteadyNow() + kCallTimeout);
}

// How many slots a member owns now, and after the change in progress.
struct Shares {
  int now = 0, next = 0;
};
std::vector<Shares> SharesOf(const cluster::Placement& placement) {
  std::vector<Shares> shares(placement.members().size());
  for (int slot = 0; slot < cluster::kSlots; ++slot) {
    for (const uint16_t owner : placement.current().Owners(slot)) ++shares[owner].now;
    for (const uint16_t owner : placement.next().Owners(slot)) ++shares[owner].next;
  }
  return shares;
}

using Progress = std::map<cluster::NodeId, cluster::ProgressRecord>;

nlohmann::json ToJson(const cluster::View& view, const Progress& progress) {
  const std::vector<Shares> shares = SharesOf(view.placement);
  nlohmann::json members = nlohmann::json::array();
  for (size_t i = 0; i < view.status.size(); ++i) {
    const cluster::Member& member = view.placement.members()[i];
    const cluster::MemberStatus& status = view.status[i];
    nlohmann::json one = {{"node_id", cluster::IdHex(member.node_id)},
                          {"address", status.address},
                          {"zone", member.zone},
                          {"weight", member.weight},
                          {"state", std::string(cluster::StateName(member.state))},
                          {"build", status.build},
                          {"alive", status.incarnation.has_value()},
                          {"slots", shares[i].now},
                          {"slots_next", shares[i].next}};
    if (const auto found = progress.find(member.node_id); found != progress.end()) {
      one["progress"] = {{"epoch", found->second.epoch},
                         {"slots", found->second.slots},
                         {"slots_done", found->second.slots_done},
                         {"bytes_left", found->second.bytes_left},
                         {"bytes_per_second", found->second.bytes_per_second}};
    }
    members.push_back(std::move(one));
  }
  return {{"cluster", view.settings.name},      {"id", cluster::IdHex(view.settings.id)},
          {"copies", view.settings.copies},     {"acknowledged", view.settings.acknowledged},
          {"database", view.settings.database}, {"epoch", view.placement.epoch()},
          {"members", std::move(members)}};
}

// "complete", "7 of 10 slots, 1.5 GiB left".
std::string ShowProgress(const cluster::View& view, const Progress& progress, const cluster::NodeId& id) {
  const auto found = progress.find(id);
  if (found == progress.end()) return "-";
  const cluster::ProgressRecord& record = found->second;
  const std::string of = record.epoch == view.placement.epoch() ? "" : absl::StrCat(" of epoch ", record.epoch);
  if (record.complete()) return "complete" + of;
  return absl::StrCat(record.slots_done, " of ", record.slots, " slots", of, ", ",
                      FormatBytes(static_cast<double>(record.bytes_left)), " left");
}

std::string Draw(const cluster::View& view, const Progress& progress) {
  const auto& settings = view.settings;
  std::string text = absl::StrCat("cluster ", settings.name, " (", cluster::IdHex(settings.id), "): ", settings.copies,
                                  " copies, ", settings.acknowledged, " acknowledged, epoch ", view.placement.epoch(),
                                  ", ", view.status.size(), " members\n");
  if (view.status.empty()) return text;
  std::vector<std::vector<std::string>> rows = {
      {"NODE", "ADDRESS", "ZONE", "WEIGHT", "STATE", "ALIVE", "SLOTS", "HOLDS", "BUILD"}};
  const std::vector<Shares> shares = SharesOf(view.placement);
  for (size_t i = 0; i < view.status.size(); ++i) {
    const cluster::Member& member = view.placement.members()[i];
    rows.push_back({cluster::IdHex(member.node_id), view.status[i].address, member.zone.empty() ? "-" : member.zone,
                    absl::StrCat(member.weight), std::string(cluster::StateName(member.state)),
                    view.status[i].incarnation.has_value() ? "yes" : "no",
                    shares[i].now == shares[i].next ? absl::StrCat(shares[i].now)
                                                    : absl::StrCat(shares[i].now, "->", shares[i].next),
                    ShowProgress(view, progress, member.node_id), view.status[i].build});
  }
  absl::StrAppend(&text, TableText(rows, std::vector<bool>(rows[0].size(), true)));
  return text;
}

absl::Status List(const cluster::Membership& membership, bool json) {
  const auto view = membership.view();
  if (json) {
    PrintJson(ToJson(*view, membership.progress()));
  } else {
    absl::PrintF("%s", Draw(*view, membership.progress()));
  }
  return absl::OkStatus();
}

struct MembersFlags {
  ClusterFlags cluster;
  bool json = false, force = false;
};

absl::Status Change(const cluster::Membership& membership, const std::vector<std::string>& words,
                    const MembersFlags& flags) {
  const absl::Time deadline = SteadyNow() + kCallTimeout;
  cluster::Connection* const connection = membership.connection();
  const std::string& verb = words[0];
  KVLINK_ASSIGN_OR_RETURN(const cluster::NodeId id, FindMember(*membership.view(), words[1]));
  absl::StatusOr<uint64_t> epoch;
  std::string what;
  if (verb == "weight") {
    int64_t weight = 0;
    if (!absl::SimpleAtoi(words[2], &weight)) {
      return absl::InvalidArgumentError(absl::StrCat("weight '", words[2], "' is not an integer"));
    }
    KVLINK_RETURN_IF_ERROR(cluster::ValidateWeight(weight));
    epoch = cluster::SetWeight(connection, id, static_cast<uint32_t>(weight), deadline);
    what = absl::StrCat("has weight ", weight);
  } else if (verb == "zone") {
    epoch = cluster::SetZone(connection, id, words[2], deadline);
    what = words[2].empty() ? "is in no zone" : absl::StrCat("is in zone ", words[2]);
  } else {
    epoch = cluster::Remove(connection, id, flags.force, deadline);
    what = "is no longer a member";
  }
  KVLINK_RETURN_IF_ERROR(epoch.status());
  if (flags.json) {
    PrintJson({{"node_id", cluster::IdHex(id)}, {"change", verb}, {"epoch", *epoch}});
  } else {
    absl::PrintF("%s %s (epoch %d)\n", cluster::IdHex(id), what, *epoch);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<cluster::NodeId> FindMember(const cluster::View& view, absl::string_view name) {
  const std::string digits = absl::AsciiStrToLower(name);
  const bool hex = digits.size() <= 32 && std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit);
  if (!hex && !absl::StrContains(name, ':')) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", name,
        "' is neither the address of a member nor the first digits of a node id; kvlink members lists both"));
  }
  if (hex && digits.size() < kMinPrefix) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", name, "': expected at least ", kMinPrefix, " digits of a node id"));
  }
  std::vector<cluster::NodeId> found;
  for (size_t i = 0; i < view.status.size(); ++i) {
    const cluster::NodeId& id = view.placement.members()[i].node_id;
    const bool named = hex ? absl::StartsWith(cluster::IdHex(id), digits) : view.status[i].address == name;
    if (named) found.push_back(id);
  }
  if (found.size() == 1) return found[0];
  if (found.empty()) {
    return absl::NotFoundError(absl::StrCat("cluster '", view.settings.name, "' has no member '", name,
                                            "'; kvlink members lists its members"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "'", name,
      "' matches several members: ", absl::StrJoin(found, ", ", [](std::string* out, const cluster::NodeId& id) {
        absl::StrAppend(out, cluster::IdHex(id));
      })));
}

absl::Status RunMembers(absl::Span<char* const> args) {
  MembersFlags flags;
  Arguments arguments(
      "members", "[list | weight NODE N | zone NODE ZONE | remove NODE]",
      "Lists the members of a cluster, or changes one: weight sets its share of the encodings relative to\n"
      "other members, zone its failure domain ('' for none), and remove takes it out of the cluster. NODE\n"
      "is a member's address or the first digits of its node id.\n\n"
      "To remove a running node, use kvlink drain NODE, which lets it hand over what it holds first.");
  AddClusterFlags(arguments, flags.cluster);
  arguments.Flag("force", "Remove a member even if it is alive; the cluster loses what only it holds.", &flags.force);
  AddJsonFlag(arguments, &flags.json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  const std::vector<std::string>& words = arguments.operands();
  const std::string verb = words.empty() ? "list" : words[0];
  const size_t wanted = verb == "list" ? 1 : verb == "remove" ? 2 : verb == "weight" || verb == "zone" ? 3 : 0;
  if (wanted == 0) {
    return absl::InvalidArgumentError(absl::StrCat("'", verb, "': expected list, weight, zone or remove"));
  }
  if (words.size() != wanted && !words.empty()) {
    return absl::InvalidArgumentError("expected list, weight NODE N, zone NODE ZONE or remove NODE");
  }
  KVLINK_ASSIGN_OR_RETURN(const auto membership, OpenCluster(flags.cluster));
  return wanted == 1 ? List(*membership, flags.json) : Change(*membership, words, flags);
}

namespace {

void PrintCluster(const cluster::ClusterSettings& settings) {
  PrintJson({{"cluster", settings.name},
             {"id", cluster::IdHex(settings.id)},
             {"copies", settings.copies},
             {"acknowledged", settings.acknowledged},
             {"database", settings.database}});
}

absl::Status CreateTheCluster(const ClusterFlags& flags, const cluster::ClusterSettings& settings, bool json) {
  KVLINK_ASSIGN_OR_RETURN(const cluster::ClusterAddress address, ClusterAddressOf(flags));
  KVLINK_ASSIGN_OR_RETURN(const auto connection, cluster::Connection::Open(address));
  KVLINK_ASSIGN_OR_RETURN(const auto made,
                          cluster::CreateCluster(connection.get(), settings, SteadyNow() + kCallTimeout));
  if (!made.database.empty()) {
    // The first node would create the tables, too; here a mistake shows earlier.
    const auto prepared = PrepareDatabase(made, /*make_tables=*/true, SteadyNow() + kCallTimeout);
    KVLINK_RETURN_IF_ERROR(Annotate(prepared.status(),
                                    "the cluster was created, but its nodes cannot start yet; if the connection string "
                                    "is wrong, correct it with kvlink cluster set --database"));
  }
  if (json) {
    PrintCluster(made);
    return absl::OkStatus();
  }
  absl::PrintF("cluster %s (%s): %d copies, %d acknowledged; nodes join with kvlink store --cluster %s\n", made.name,
               cluster::IdHex(made.id), made.copies, made.acknowledged, connection->ToString());
  return absl::OkStatus();
}

// The new database is tried first: a wrong one would keep every process from starting, and an empty one would hide all
// documents. Until the cluster has its first member, it has no documents.
absl::Status SetTheDatabase(const ClusterFlags& flags, const std::string& database, bool json) {
  KVLINK_ASSIGN_OR_RETURN(const auto membership, OpenCluster(flags));
  cluster::ClusterSettings settings = membership->view()->settings;
  if (settings.database.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(membership->connection()->ToString(),
                     ": the cluster was created without a database, so what its nodes hold is in no catalog; create "
                     "another cluster with kvlink cluster create --database"));
  }
  settings.database = database;
  KVLINK_RETURN_IF_ERROR(cluster::ValidateSettings(settings));
  const bool unused = membership->view()->placement.epoch() == 0;
  KVLINK_ASSIGN_OR_RETURN(const auto catalog,
                          PrepareDatabase(settings, /*make_tables=*/unused, SteadyNow() + kCallTimeout));
  if (!unused) {
    // An earlier command may have made tables there.
    KVLINK_ASSIGN_OR_RETURN(const bool used, catalog->Used(SteadyNow() + kCallTimeout));
    if (!used) {
      return absl::FailedPreconditionError(
          absl::StrCat("cluster ", settings.name,
                       ": its tables are empty in that database, so that all documents would be gone: drop the schema "
                       "kvlink there, and restore the catalog of this cluster first"));
    }
  }
  KVLINK_RETURN_IF_ERROR(
      cluster::SetDatabase(membership->connection(), database, unused, SteadyNow() + kCallTimeout).status());
  if (json) {
    PrintCluster(settings);
  } else {
    absl::PrintF("cluster %s: processes use this database from their next start\n", settings.name);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunCluster(absl::Span<char* const> args) {
  ClusterFlags flags;
  cluster::ClusterSettings settings;
  int64_t copies = settings.copies, acknowledged = 0;
  Arguments arguments(
      "cluster", "create | set",
      "create makes a cluster in etcd: how many nodes keep each encoding, how many of them must have it\n"
      "on disk before a write is acknowledged, and which database keeps the documents. Nodes then join\n"
      "with kvlink store --cluster.\n\n"
      "set replaces the connection string of the database, for example when its host has changed;\n"
      "processes use it from their next start. The database must hold this cluster's catalog: restore it\n"
      "there first.\n\n"
      "The connection string must not contain a password, since everyone who can read etcd can see\n"
      "it; each process takes the password from the file that PGPASSFILE names.");
  AddClusterFlags(arguments, flags);
  arguments.Integer("copies", "N", "Number of nodes that keep each encoding.", 1, cluster::kMaxCopies, &copies);
  arguments.Integer("acknowledged", "N", "Number of copies on disk before a write is acknowledged. If not given: all.",
                    1, cluster::kMaxCopies, &acknowledged);
  arguments.Text("database", "CONNSTRING",
                 "Connection string of the PostgreSQL database: postgresql://USER@HOST/NAME. If not given: the cluster "
                 "keeps encodings but neither documents nor limits.",
                 &settings.database);
  bool json = false;
  AddJsonFlag(arguments, &json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  const std::vector<std::string>& words = arguments.operands();
  const std::string verb = words.size() == 1 ? words[0] : "";
  if (verb == "create") {
    settings.copies = static_cast<int>(copies);
    settings.acknowledged = static_cast<int>(arguments.given("acknowledged") ? acknowledged : copies);
    return CreateTheCluster(flags, settings, json);
  }
  if (verb != "set") return absl::InvalidArgumentError("expected kvlink cluster create, or set");
  if (arguments.given("copies") || arguments.given("acknowledged") || settings.database.empty()) {
    return absl::InvalidArgumentError("kvlink cluster set changes the database alone: give --database CONNSTRING");
  }
  return SetTheDatabase(flags, settings.database, json);
}

namespace {

// OK if the node, which is no longer a member, has drained.
absl::Status CheckDrained(const cluster::Membership& membership, const cluster::NodeId& id) {
  const auto drained = cluster::HasDrained(membership.connection(), id, SteadyNow() + kCallTimeout);
  if (!drained.ok()) {
    return Annotate(drained.status(),
                    absl::StrCat(cluster::IdHex(id), " is no longer a member; whether it had drained is not known"));
  }
  if (*drained) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat(cluster::IdHex(id), " was removed before it had drained: the cluster has lost what only it held"));
}

absl::Status StillDraining(const cluster::MembershipHealth& health, const cluster::NodeId& id,
                           const std::string& awaited) {
  if (health.status.ok()) {
    return absl::DeadlineExceededError(absl::StrCat(cluster::IdHex(id), " is still draining, waiting for ", awaited));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("whether ", cluster::IdHex(id), " is still draining is not known: when it was last seen, ",
                   absl::FormatDuration(absl::Trunc(SteadyNow() - health.since, absl::Seconds(1))),
                   " ago, it waited for ", awaited, ", and since then: ", health.status.message()));
}

// Waits until the member has left. `epoch`: of its drain.
absl::Status AwaitDrained(const cluster::Membership& membership, const cluster::NodeId& id, uint64_t epoch,
                          absl::Time deadline) {
  ProgressBar bar;
  std::string awaited = "the other members";
  for (auto view = membership.view(); SteadyNow() < deadline;
       view = membership.WaitForChange(view, std::min(deadline, SteadyNow() + kLook))) {
    const auto& members = view->placement.members();
    if (view->placement.epoch() < epoch) {
      return absl::AbortedError(absl::StrCat("etcd was set back to before the drain of ", cluster::IdHex(id),
                                             " began: look at kvlink members, and drain it again"));
    }
    const auto self = std::find_if(members.begin(), members.end(), [&](const auto& one) { return one.node_id == id; });
    if (self == members.end()) return CheckDrained(membership, id);
    if (self->state != cluster::MemberState::kDraining) {
      return absl::AbortedError(absl::StrCat(cluster::IdHex(id), " is no longer draining: its drain was cancelled"));
    }
    uint64_t bytes = 0;
    std::vector<std::string> names;
    const auto progress = membership.progress();
    for (const uint16_t member : cluster::AwaitedByDrain(*view, progress, id)) {
      const auto found = progress.find(members[member].node_id);
      if (found != progress.end()) bytes += found->second.bytes_left;
      names.push_back(absl::StrCat(view->status[member].address, view->alive(member) ? "" : " (not alive)"));
    }
    if (view->placement.next().width() == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          cluster::IdHex(id), " cannot leave: no other member is active; cancel with kvlink drain NODE --cancel"));
    }
    const bool alive = view->alive(static_cast<uint16_t>(self - members.begin()));
    if (names.empty() && !alive) {
      return absl::FailedPreconditionError(absl::StrCat(cluster::IdHex(id),
                                                        " is not alive, so it cannot leave by itself; the others have "
                                                        "its encodings: remove it with kvlink members remove"));
    }
    awaited = names.empty() ? "the member itself" : absl::StrJoin(names, ", ");
    if (!alive)
      awaited += "; they wait for it, since it is not alive: start it, or remove it with kvlink members remove";
    bar.Update(-1, absl::StrCat("waiting for ", names.size(), " members, ", FormatBytes(static_cast<double>(bytes)),
                                " to copy", membership.health().status.ok() ? "" : ", as last known"));
  }
  return StillDraining(membership.health(), id, awaited);
}

}  // namespace

absl::Status DrainMember(const ClusterFlags& flags, const std::string& node, const DrainOptions& options,
                         absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto membership, OpenCluster(flags));
  const auto view = membership->view();
  KVLINK_ASSIGN_OR_RETURN(const cluster::NodeId id, FindMember(*view, node));
  const absl::Time call = SteadyNow() + kCallTimeout;
  const auto epoch = options.cancel ? cluster::CancelDrain(membership->connection(), id, call)
                                    : cluster::Drain(membership->connection(), id, call);
  KVLINK_RETURN_IF_ERROR(epoch.status());
  const bool wait = options.wait && !options.cancel;
  const auto print = [&](const char* drain, const std::string& text) {
    if (options.json) {
      PrintJson({{"node_id", cluster::IdHex(id)}, {"drain", drain}, {"epoch", *epoch}});
    } else {
      absl::PrintF("%s %s\n", cluster::IdHex(id), text);
    }
    std::fflush(stdout);
  };
  if (options.cancel) {
    print("cancelled", absl::StrCat("stays (epoch ", *epoch, ")"));
  } else if (!options.json || !wait) {
    print("begun", absl::StrCat("is draining (epoch ", *epoch, ")"));
  }
  if (!wait) return absl::OkStatus();
  for (auto now = membership->view(); now->placement.epoch() < *epoch && SteadyNow() < deadline;) {
    now = membership->WaitForChange(now, deadline);
  }
  KVLINK_RETURN_IF_ERROR(AwaitDrained(*membership, id, *epoch, deadline));
  print("complete", "has left");
  return absl::OkStatus();
}

}  // namespace kvlink::cli
