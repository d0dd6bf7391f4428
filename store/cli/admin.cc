// kvlink status, namespace and drain, for a node (which needs only its gRPC service) or for a cluster.
#include "store/client/control/admin.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/clock.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/admin.h"
#include "store/cli/cluster_status.h"
#include "store/cli/cluster_store.h"
#include "store/cli/commands.h"
#include "store/cli/members.h"
#include "store/cli/place.h"

namespace kvlink::cli {
namespace {

struct AdminFlags {
  StoreFlags store;
  bool watch = false;
  bool json = false;
  bool stop = false;
  double interval = 1;
  double timeout = 600;
};

nlohmann::json ToJson(const store::client::NodeStatus& status) {
  nlohmann::json namespaces = nlohmann::json::array();
  for (const auto& ns : status.namespaces) {
    namespaces.push_back({{"name", ns.limits.name},
                          {"capacity_bytes", ns.limits.capacity_bytes},
                          {"pinned_limit_bytes", ns.limits.pinned_bytes},
                          {"node_capacity_bytes", ns.node_capacity_bytes},
                          {"node_pinned_limit_bytes", ns.node_pinned_bytes},
                          {"revision", ns.limits.revision},
                          {"encodings", ns.encodings},
                          {"documents", ns.documents},
                          {"bytes", ns.bytes},
                          {"pinned_bytes", ns.pinned_bytes},
                          {"dram_bytes", ns.dram_bytes}});
  }
  return {{"namespaces", namespaces}, {"values", status.values}, {"texts", status.texts}};
}

int64_t Value(const store::client::NodeStatus& status, const std::string& name) {
  const auto it = status.values.find(name);
  return it == status.values.end() ? 0 : it->second;
}

// How fast a counter grew between two readings, as "12.3 MiB/s".
std::string Rate(const store::client::NodeStatus& now, const store::client::NodeStatus& before, const std::string& name,
                 double seconds) {
  if (seconds <= 0) return "";
  const int64_t change = Value(now, name) - Value(before, name);
  return absl::StrCat(FormatBytes(static_cast<double>(change) / seconds), "/s");
}

std::string Draw(const std::string& address, const store::client::NodeStatus& status,
                 const store::client::NodeStatus& before, double seconds) {
  std::string text;
  const auto line = [&](absl::string_view name, absl::string_view rest) {
    absl::StrAppendFormat(&text, "%-11s %s\n", name, rest);
  };
  const auto word = [&](const std::string& name) {
    const auto it = status.texts.find(name);
    return it == status.texts.end() ? std::string("?") : Printable(it->second);
  };
  line("node", absl::StrCat(address, "  ", word("version"), "  ", word("state"), "  up ",
                            FormatClock(absl::Milliseconds(Value(status, "uptime_ms")))));
  line("identity", absl::StrCat(word("node_id"), "  incarnation ", word("incarnation")));
  line("memory", absl::StrCat(FormatBytes(Value(status, "dram_bytes_used")), " of ",
                              FormatBytes(Value(status, "dram_bytes")), ", ", Value(status, "leases"), " leases"));
  line("segments", absl::StrCat(FormatBytes(Value(status, "segment_bytes_used")), " used of ",
                                FormatBytes(Value(status, "segment_bytes")), " allocated, ", Value(status, "evictions"),
                                " evictions, ", word("io")));
  line("clients",
       absl::StrCat(Value(status, "sessions"), " sessions, ", Value(status, "connections"), " data connections, ",
                    Value(status, "pulls"), " pulls and ", Value(status, "pushes"), " pushes under way"));
  line("traffic",
       absl::StrCat("hits ", Value(status, "hits_dram"), " memory, ", Value(status, "hits_segments"), " segments, ",
                    Value(status, "misses"), " misses; read ", FormatBytes(Value(status, "bytes_read")), ", written ",
                    FormatBytes(Value(status, "bytes_written"))));
  if (seconds > 0) {
    line("", absl::StrCat("sent ", Rate(status, before, "payload_bytes_sent", seconds), ", received ",
                          Rate(status, before, "payload_bytes_received", seconds), ", read from disk ",
                          Rate(status, before, "bytes_read", seconds), ", written ",
                          Rate(status, before, "bytes_written", seconds)));
  }
  line("waiting",
       absl::StrCat(Value(status, "pushes_open"), " pushes open; disk reads ", Value(status, "reads_waiting"),
                    " waiting and ", Value(status, "reads_in_flight"), " under way, writes ",
                    Value(status, "writes_waiting"), " and ", Value(status, "writes_in_flight"), "; ",
                    Value(status, "pinned_encodings"), " encodings pinned; ",
                    Value(status, "hit_tokens_dram") + Value(status, "hit_tokens_segments"), " tokens read"));
  absl::StrAppend(&text, MemberStatus(status.values));
  if (const int64_t failures = Value(status, "integrity_failures"); failures > 0) {
    line("damage", absl::StrCat(failures, " damaged encodings found and dropped"));
  }
  for (const auto& ns : status.namespaces) {
    line("namespace",
         absl::StrCat(Printable(ns.limits.name), ": ", ns.documents, " documents, ", ns.encodings, " encodings, ",
                      FormatBytes(ns.bytes),
                      ns.node_capacity_bytes > 0 ? absl::StrCat(" of ", FormatBytes(ns.node_capacity_bytes)) : "",
                      ns.node_capacity_bytes != ns.limits.capacity_bytes
                          ? absl::StrCat(" (", FormatBytes(ns.limits.capacity_bytes), " in the cluster)")
                          : "",
                      ", ", FormatBytes(ns.dram_bytes), " in memory, ", FormatBytes(ns.pinned_bytes), " pinned"));
  }
  return text;
}

absl::Status NoOperands(const Arguments& arguments) {
  if (arguments.operands().empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("unexpected operand '", arguments.operands()[0], "'; name the node with --store HOST:PORT"));
}

// Whether the command addresses a cluster. OpenAdmin reports an invalid --store.
absl::StatusOr<bool> AsksCluster(const Arguments& arguments, const StoreFlags& flags) {
  const auto place = PlaceOf(flags);
  if (!place.ok() && arguments.given("cluster")) return place.status();
  return place.ok() && *place == PlaceKind::kCluster;
}

// With --watch, moves a terminal's cursor home and clears the screen, so that each picture replaces the last.
void BeginPicture(const AdminFlags& flags) {
  if (flags.watch && !flags.json && isatty(STDOUT_FILENO)) absl::PrintF("\x1b[H\x1b[J");
}

absl::Status ShowCluster(const AdminFlags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const ClusterStore cluster, OpenClusterStore(flags.store));
  for (;;) {
    const std::string picture = ClusterStatus(cluster, flags.json, flags.watch);
    BeginPicture(flags);
    absl::PrintF("%s", picture);
    std::fflush(stdout);
    if (!flags.watch || OutputFailed()) return absl::OkStatus();
    absl::SleepFor(absl::Seconds(flags.interval));
  }
}

}  // namespace

absl::Status RunStatus(absl::Span<char* const> args) {
  AdminFlags flags;
  flags.store.memory = int64_t{64} << 20;  // nothing is read
  Arguments arguments("status", "",
                      "Shows a node's tiers, namespaces and traffic. With --cluster, shows the members of the cluster\n"
                      "instead: whether each is alive, what it holds and what it still has to copy.");
  AddNodeFlags(arguments, flags.store);
  AddClusterFlags(arguments, flags.store.cluster);
  arguments.Flag("watch", "Refresh until interrupted, and show rates.", &flags.watch);
  arguments.Number("interval", "SECONDS", "Time between refreshes.", &flags.interval);
  arguments.Flag("json", "Print JSON; with --watch, one object per line.", &flags.json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  KVLINK_RETURN_IF_ERROR(NoOperands(arguments));
  KVLINK_ASSIGN_OR_RETURN(const bool cluster, AsksCluster(arguments, flags.store));
  if (cluster) return ShowCluster(flags);
  KVLINK_ASSIGN_OR_RETURN(const auto admin, OpenAdmin(flags.store));
  store::client::NodeStatus before;
  absl::Time then = absl::InfinitePast();
  for (;;) {
    const auto answer = admin->Status(SteadyNow() + kCallTimeout);
    KVLINK_RETURN_IF_ERROR(HintAtKey(answer.status()));
    const store::client::NodeStatus& status = *answer;
    const absl::Time now = SteadyNow();
    if (flags.json) {
      PrintJson(ToJson(status), /*one_line=*/flags.watch);
    } else {
      const double seconds = then == absl::InfinitePast() ? 0 : absl::ToDoubleSeconds(now - then);
      BeginPicture(flags);
      absl::PrintF("%s", Draw(flags.store.store, status, before, seconds));
    }
    std::fflush(stdout);
    if (!flags.watch) return absl::OkStatus();
    if (OutputFailed()) return absl::OkStatus();  // nobody is reading
    before = status;
    then = now;
    absl::SleepFor(absl::Seconds(flags.interval));
  }
}

namespace {

// What is shown of a namespace besides its limits.
struct Use {
  std::optional<store::NamespaceStats> stats;  // unset: it holds nothing
  std::string capacity_note;
  std::string default_pinned;  // shown if no pinned limit is set
  int64_t bytes_over = 0;
  std::string problem;
};

nlohmann::json ToJson(const store::NamespaceLimits& limits, const Use& use) {
  const store::NamespaceStats stats = use.stats.value_or(store::NamespaceStats{});
  nlohmann::json json = {{"name", limits.name},
                         {"capacity_bytes", limits.capacity_bytes},
                         {"pinned_limit_bytes", limits.pinned_bytes},
                         {"revision", limits.revision},
                         {"documents", stats.documents},
                         {"encodings", stats.encodings},
                         {"bytes", stats.bytes},
                         {"pinned_bytes", stats.pinned_bytes},
                         {"bytes_over", use.bytes_over}};
  if (!use.problem.empty()) json["problem"] = use.problem;
  return json;
}

// "docs: capacity 20 MiB, pinned limit 1 MiB; 5 documents, 5 encodings, 8.91 MiB, 0 B pinned; revision 2"
void Print(const store::NamespaceLimits& limits, const Use& use, bool json) {
  if (json) return PrintJson(ToJson(limits, use));
  std::string line = absl::StrCat(
      Printable(limits.name), ": capacity ",
      limits.capacity_bytes > 0 ? absl::StrCat(FormatBytes(limits.capacity_bytes), use.capacity_note)
                                : std::string("unlimited"),
      ", ",
      limits.pinned_bytes > 0 ? absl::StrCat("pinned limit ", FormatBytes(limits.pinned_bytes)) : use.default_pinned);
  if (use.stats.has_value()) {
    absl::StrAppend(&line, "; ", use.stats->documents, " documents, ", use.stats->encodings, " encodings, ",
                    FormatBytes(use.stats->bytes), ", ", FormatBytes(use.stats->pinned_bytes), " pinned");
  }
  if (limits.revision > 0) absl::StrAppend(&line, "; revision ", limits.revision);
  if (use.bytes_over > 0) absl::StrAppend(&line, "; ", FormatBytes(use.bytes_over), " over capacity, being evicted");
  if (!use.problem.empty()) absl::StrAppend(&line, "; ", Printable(use.problem));
  absl::PrintF("%s\n", line);
}

absl::Status AskNode(const StoreFlags& flags, const store::NamespaceChange& change, bool json) {
  KVLINK_ASSIGN_OR_RETURN(const auto admin, OpenAdmin(flags));
  const auto outcome = admin->SetNamespace(change, SteadyNow() + kCallTimeout);
  KVLINK_RETURN_IF_ERROR(HintAtKey(outcome.status()));
  const auto status = admin->Status(SteadyNow() + kCallTimeout);
  KVLINK_RETURN_IF_ERROR(HintAtKey(status.status()));
  Use use;
  use.default_pinned = "the node's default pinned limit";
  use.bytes_over = outcome->bytes_over;
  for (const auto& ns : status->namespaces) {
    if (ns.limits.name != change.name) continue;
    use.stats = {ns.limits.name, ns.encodings, ns.bytes, ns.pinned_bytes, ns.documents};
    if (ns.node_capacity_bytes != ns.limits.capacity_bytes) {
      use.capacity_note = absl::StrCat(" in the cluster, ", FormatBytes(ns.node_capacity_bytes), " on this node");
    }
  }
  Print(outcome->limits, use, json);
  return absl::OkStatus();
}

absl::StatusOr<store::NamespaceLimits> LimitsIn(store::database::DatabaseCatalog* catalog, const std::string& name) {
  KVLINK_ASSIGN_OR_RETURN(const auto all, catalog->ListNamespaces(SteadyNow() + kCallTimeout));
  const auto found = absl::c_find_if(all, [&](const auto& one) { return one.name == name; });
  return found == all.end() ? store::NamespaceLimits{.name = name} : *found;
}

absl::Status AskCluster(const StoreFlags& flags, const store::NamespaceChange& change, bool json) {
  KVLINK_ASSIGN_OR_RETURN(const ClusterStore cluster, OpenClusterStore(flags));
  const bool changes =
      change.capacity_bytes.has_value() || change.pinned_bytes.has_value() || change.revision.has_value();
  const auto limits = changes ? cluster.catalog->PutNamespace(change, SteadyNow() + kCallTimeout)
                              : LimitsIn(cluster.catalog.get(), change.name);
  KVLINK_RETURN_IF_ERROR(Annotate(limits.status(), PlaceName(flags)));

  const auto nodes = cluster.store->Nodes();
  store::StoreStats sum = store::cluster::SumOf(nodes);
  KVLINK_RETURN_IF_ERROR(Annotate(AddCatalogStats(cluster.catalog.get(), &sum), PlaceName(flags)));
  Use use;
  use.capacity_note = " for all copies together";
  use.default_pinned = "each node's default pinned limit";
  const auto found = absl::c_find_if(sum.namespaces, [&](const auto& one) { return one.name == change.name; });
  if (found != sum.namespaces.end()) use.stats = *found;
  if (limits->capacity_bytes > 0 && use.stats.has_value()) {
    use.bytes_over = std::max<int64_t>(0, use.stats->bytes - limits->capacity_bytes);
  }
  const auto failed = [](const store::cluster::NodeReport& node) { return !node.stats.ok(); };
  if (const auto first = absl::c_find_if(nodes, failed); first != nodes.end()) {
    use.problem = absl::StrCat("not counting ", absl::c_count_if(nodes, failed), " of ", nodes.size(),
                               " nodes: ", first->stats.status().message());
  }
  Print(*limits, use, json);
  return absl::OkStatus();
}

}  // namespace

absl::Status RunNamespace(absl::Span<char* const> args) {
  StoreFlags store;
  store.memory = int64_t{64} << 20;                  // nothing is read
  int64_t capacity = -1, pinned = -1, revision = 0;  // no defaults
  Arguments arguments(
      "namespace", "NAME",
      "Sets the given limits of the namespace NAME, then shows its limits and what it uses. A namespace\n"
      "at its limit evicts its own encodings, never those of another namespace.\n\n"
      "With --cluster, limits apply to all nodes together, counting every copy of an encoding. Each\n"
      "node enforces its share of them, about a second after a change.");
  AddNodeFlags(arguments, store);
  AddClusterFlags(arguments, store.cluster);
  arguments.Bytes("capacity", "Maximum disk space for its encodings; 0: unlimited. If not given: unchanged.",
                  &capacity);
  arguments.Bytes("pinned",
                  "Maximum disk space for its pinned encodings; 0: the node's default. If not given: unchanged.",
                  &pinned);
  arguments.Integer("revision", "N",
                    "Revision of these limits; it must be above the current one. If not given: the next one.", 1,
                    INT64_MAX, &revision);
  bool json = false;
  AddJsonFlag(arguments, &json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (arguments.operands().size() != 1)
    return absl::InvalidArgumentError("expected one namespace: kvlink namespace NAME");
  KVLINK_RETURN_IF_ERROR(store::ValidateName("namespace", arguments.operands()[0]));
  store::NamespaceChange change{.name = arguments.operands()[0]};
  if (arguments.given("capacity")) change.capacity_bytes = capacity;
  if (arguments.given("pinned")) change.pinned_bytes = pinned;
  if (arguments.given("revision")) change.revision = static_cast<uint64_t>(revision);
  KVLINK_ASSIGN_OR_RETURN(const bool cluster, AsksCluster(arguments, store));
  return cluster ? AskCluster(store, change, json) : AskNode(store, change, json);
}

absl::Status RunDrain(absl::Span<char* const> args) {
  AdminFlags flags;
  ClusterFlags cluster;
  DrainOptions options;
  Arguments arguments("drain", "[NODE]",
                      "Drains a node: it accepts no new sessions or encodings but completes what is under way. The\n"
                      "command returns when the node has nothing left to do.\n\n"
                      "With NODE, drains a member of a cluster: it keeps serving until the other members have copies\n"
                      "of what it holds, then leaves the cluster and exits. NODE is the member's address or the first\n"
                      "digits of its node id.");
  AddNodeFlags(arguments, flags.store);
  AddClusterFlags(arguments, cluster);
  arguments.Flag("stop", "Without NODE: then stop the node's process.", &flags.stop);
  arguments.Flag("wait", "With NODE: wait until it has left.", &options.wait);
  arguments.Flag("cancel", "With NODE: cancel its drain; the member stays.", &options.cancel);
  arguments.Number("timeout", "SECONDS", "Maximum time to wait.", &flags.timeout);
  AddJsonFlag(arguments, &options.json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  const absl::Time deadline = SteadyNow() + absl::Seconds(flags.timeout);
  if (arguments.operands().size() == 1) {
    if (flags.stop) {
      return absl::InvalidArgumentError("--stop is not for members of a cluster: a drained member exits by itself");
    }
    return DrainMember(cluster, arguments.operands()[0], options, deadline);
  }
  if (options.wait || options.cancel || arguments.given("cluster")) {
    return absl::InvalidArgumentError("expected a member: kvlink drain NODE");
  }
  KVLINK_RETURN_IF_ERROR(NoOperands(arguments));
  KVLINK_ASSIGN_OR_RETURN(const auto admin, OpenAdmin(flags.store));
  ProgressBar bar;
  const absl::Status drained = admin->Drain(
      flags.stop,
      [&bar](const store::client::DrainState& state) {
        bar.Update(-1, absl::StrCat("under way: ", state.pulls, " pulls, ", state.pushes, " pushes, ", state.leases,
                                    " leases"));
        return true;
      },
      deadline);
  bar.Clear();
  KVLINK_RETURN_IF_ERROR(HintAtKey(drained));
  if (options.json) {
    PrintJson({{"address", flags.store.store}, {"drain", "complete"}, {"stopping", flags.stop}});
  } else {
    absl::PrintF("%s: drained%s\n", flags.store.store, flags.stop ? ", stopping" : "");
  }
  return absl::OkStatus();
}

}  // namespace kvlink::cli
