// kvlink members shows what etcd knows. This asks the nodes as well, so it needs a key if they do.
#include "store/cli/cluster_status.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"
#include "store/cluster/members/records.h"

namespace kvlink::cli {
namespace {

namespace cluster = store::cluster;

constexpr absl::Duration kDatabaseTimeout = absl::Seconds(5);

int64_t EncodingsOf(const store::StoreStats& stats) {
  int64_t encodings = 0;
  for (const store::NamespaceStats& ns : stats.namespaces) encodings += ns.encodings;
  return encodings;
}

struct Line {
  cluster::NodeReport node;
  std::optional<cluster::ProgressRecord> progress;
};

// What is missing until every copy is where the placement wants it.
struct Repairing {
  int64_t moving = 0;     // copies of slots that change their owner
  int64_t away = 0;       // copies of slots whose owner is not alive
  int64_t unchecked = 0;  // copies of slots that live owners have yet to compare, and to copy if they differ
  int64_t bytes_left = 0;
  absl::Duration time_left;  // of the slowest member, since members copy in parallel
};

Repairing RepairingOf(const cluster::View& view, const std::vector<Line>& lines) {
  Repairing repairing;
  cluster::ForEachMove(view.placement.current(), view.placement.next(), [&](const cluster::Move& move) {
    repairing.moving += move.added.has_value();
    return true;
  });
  for (int slot = 0; slot < cluster::kSlots; ++slot) {
    for (const uint16_t owner : view.placement.next().Owners(slot)) repairing.away += !view.alive(owner);
  }
  for (const Line& line : lines) {
    if (!line.progress.has_value() || line.progress->epoch != view.placement.epoch()) continue;
    repairing.unchecked += line.progress->slots - line.progress->slots_done;
    repairing.bytes_left += line.progress->bytes_left;
    repairing.time_left = std::max(repairing.time_left, line.progress->time_left());
  }
  return repairing;
}

std::string Draw(const Repairing& repairing) {
  if (repairing.moving + repairing.away + repairing.unchecked + repairing.bytes_left == 0) return "";
  std::string text =
      absl::StrCat("copies of slots: ", repairing.moving, " moving, ", repairing.away, " without a live node, ",
                   repairing.unchecked, " to check; ", FormatBytes(repairing.bytes_left), " to copy");
  if (repairing.bytes_left > 0 && repairing.time_left < absl::InfiniteDuration()) {
    absl::StrAppend(&text, ", ", FormatClock(repairing.time_left), " left");
  }
  return text + "\n";
}

nlohmann::json ToJson(const Line& line) {
  const cluster::NodeReport& node = line.node;
  nlohmann::json json = {{"node_id", cluster::IdHex(node.member.node_id)},
                         {"address", node.status.address},
                         {"zone", node.member.zone},
                         {"weight", node.member.weight},
                         {"state", std::string(cluster::StateName(node.member.state))},
                         {"alive", node.status.incarnation.has_value()},
                         {"build", node.status.build}};
  if (node.stats.ok()) {
    json["encodings"] = EncodingsOf(*node.stats);
    json["segment_bytes_used"] = node.stats->segment_bytes_used;
    json["segment_bytes"] = node.stats->segment_bytes;
    json["dram_bytes_used"] = node.stats->dram_bytes_used;
    json["dram_bytes"] = node.stats->dram_bytes;
    json["etcd_unreachable_s"] = node.stats->etcd_unreachable_s;
    json["database_unreachable_s"] = node.stats->database_unreachable_s;
  } else {
    json["problem"] = std::string(node.stats.status().message());
  }
  if (line.progress.has_value()) {
    json["progress"] = {{"epoch", line.progress->epoch},
                        {"slots", line.progress->slots},
                        {"slots_done", line.progress->slots_done},
                        {"bytes_left", line.progress->bytes_left},
                        {"bytes_per_second", line.progress->bytes_per_second}};
  }
  return json;
}

std::string Draw(const Line& line) {
  const cluster::NodeReport& node = line.node;
  std::string text = absl::StrFormat("%-21s  %s  %-8s  zone %-8s  weight %-6d  ", node.status.address,
                                     node.status.incarnation.has_value() ? "alive" : "gone ",
                                     std::string(cluster::StateName(node.member.state)),
                                     node.member.zone.empty() ? "-" : node.member.zone, node.member.weight);
  if (node.stats.ok()) {
    absl::StrAppend(&text, EncodingsOf(*node.stats), " encodings, ", FormatBytes(node.stats->segment_bytes_used),
                    " of ", FormatBytes(node.stats->segment_bytes), ", memory ",
                    FormatBytes(node.stats->dram_bytes_used), " of ", FormatBytes(node.stats->dram_bytes));
  } else {
    absl::StrAppend(&text, "does not answer: ", Printable(node.stats.status().message()));
  }
  if (line.progress.has_value() && !line.progress->complete()) {
    absl::StrAppend(&text, "; checked ", line.progress->slots_done, " of ", line.progress->slots, " slots, ",
                    FormatBytes(line.progress->bytes_left), " to copy at ",
                    FormatBytes(line.progress->bytes_per_second), "/s");
  }
  return text + "\n";
}

// A namespace on all nodes that answer.
struct ClusterUse {
  store::NamespaceStats stats;
  store::NamespaceLimits limits;
};

std::map<std::string, ClusterUse> NamespacesOf(const std::vector<cluster::NodeReport>& nodes,
                                               const std::vector<store::NamespaceLimits>& limits) {
  std::map<std::string, ClusterUse> uses;
  for (const store::NamespaceStats& ns : cluster::SumOf(nodes).namespaces) uses[ns.name].stats = ns;
  for (const store::NamespaceLimits& one : limits) uses[one.name].limits = one;
  return uses;
}

nlohmann::json ToJson(const std::map<std::string, ClusterUse>& uses) {
  nlohmann::json namespaces = nlohmann::json::array();
  for (const auto& [name, use] : uses) {
    namespaces.push_back({{"name", name},
                          {"encodings", use.stats.encodings},
                          {"bytes", use.stats.bytes},
                          {"pinned_bytes", use.stats.pinned_bytes},
                          {"capacity_bytes", use.limits.capacity_bytes},
                          {"pinned_limit_bytes", use.limits.pinned_bytes},
                          {"revision", use.limits.revision}});
  }
  return namespaces;
}

std::string Draw(const std::map<std::string, ClusterUse>& uses) {
  std::string text;
  for (const auto& [name, use] : uses) {
    absl::StrAppend(&text, "namespace ", Printable(name), ": ", use.stats.encodings, " encodings, ",
                    FormatBytes(use.stats.bytes),
                    use.limits.capacity_bytes > 0 ? absl::StrCat(" of ", FormatBytes(use.limits.capacity_bytes)) : "",
                    ", ", FormatBytes(use.stats.pinned_bytes), " pinned\n");
  }
  return text;
}

// "the database has not answered 2 of 3 members for 1:12", as the members report it; empty if it answers all of them.
std::string SilenceTowards(absl::Span<const Line> lines, absl::string_view what, int64_t store::StoreStats::*since) {
  int64_t members = 0, longest = 0;
  for (const Line& line : lines) {
    const int64_t seconds = line.node.stats.ok() ? (*line.node.stats).*since : 0;
    if (seconds > 0) ++members;
    longest = std::max(longest, seconds);
  }
  if (members == 0) return "";
  return absl::StrCat(what, " has not answered ", members, " of ", lines.size(), " members for ",
                      FormatClock(absl::Seconds(longest)), "\n");
}

nlohmann::json ToJson(const cluster::HotView::Encoding& hot) {
  return {{"namespace", hot.name.ns},
          {"identity", hot.name.identity.Hex()},
          {"codec", std::string(CodecName(hot.name.codec))},
          {"reads_per_second", hot.reads_per_second},
          {"copies_wanted", hot.copies},
          {"copies", hot.holders.size()}};
}

std::string Draw(const cluster::HotView::Encoding& hot) {
  return absl::StrFormat("hot: %s of namespace %s (%s): about %d reads/s, %d of %d further copies\n",
                         hot.name.identity.Hex(), Printable(hot.name.ns), std::string(CodecName(hot.name.codec)),
                         hot.reads_per_second, hot.holders.size(), hot.copies);
}

}  // namespace

std::string ClusterStatus(const ClusterStore& opened, bool json, bool one_line) {
  const auto view = opened.membership->view();
  const auto progress = opened.membership->progress();
  const cluster::MembershipHealth health = opened.membership->health();
  std::vector<Line> lines;
  std::vector<cluster::NodeReport> nodes = opened.store->Nodes();
  const auto limits = opened.catalog->ListNamespaces(SteadyNow() + kDatabaseTimeout);
  const auto namespaces = NamespacesOf(nodes, limits.ok() ? *limits : std::vector<store::NamespaceLimits>());
  for (cluster::NodeReport& node : nodes) {
    const auto found = progress.find(node.member.node_id);
    lines.push_back({std::move(node), std::nullopt});
    if (found != progress.end()) lines.back().progress = found->second;
  }
  const Repairing repairing = RepairingOf(*view, lines);
  const auto hot = view->hot == nullptr ? absl::Span<const cluster::HotView::Encoding>() : view->hot->encodings();
  if (json) {
    nlohmann::json hot_encodings = nlohmann::json::array();
    for (const cluster::HotView::Encoding& one : hot) hot_encodings.push_back(ToJson(one));
    nlohmann::json members = nlohmann::json::array();
    for (const Line& line : lines) members.push_back(ToJson(line));
    nlohmann::json all = {{"cluster", view->settings.name},   {"cluster_id", cluster::IdHex(view->settings.id)},
                          {"copies", view->settings.copies},  {"acknowledged", view->settings.acknowledged},
                          {"epoch", view->placement.epoch()}, {"members", std::move(members)},
                          {"namespaces", ToJson(namespaces)}, {"hot", std::move(hot_encodings)}};
    if (!limits.ok()) all["database_problem"] = std::string(limits.status().message());
    all["slots"] = {{"moving", repairing.moving},
                    {"away", repairing.away},
                    {"unchecked", repairing.unchecked},
                    {"bytes_left", repairing.bytes_left}};
    if (repairing.time_left < absl::InfiniteDuration()) {
      all["slots"]["seconds_left"] = absl::ToDoubleSeconds(repairing.time_left);
    }
    if (!health.status.ok()) all["problem"] = std::string(health.status.message());
    return JsonText(all, one_line) + "\n";
  }
  std::string text = absl::StrCat("cluster ", view->settings.name, " (", cluster::IdHex(view->settings.id), "): epoch ",
                                  view->placement.epoch(), ", ", view->settings.copies, " copies, ",
                                  view->settings.acknowledged, " acknowledged\n");
  if (!health.status.ok()) {
    const bool away = absl::IsUnavailable(health.status) || absl::IsDeadlineExceeded(health.status);
    absl::StrAppend(&text, away ? "etcd has not answered for " : "the view of the cluster has been out of date for ",
                    FormatClock(SteadyNow() - health.since), ": ", Printable(health.status.message()), "\n");
  }
  absl::StrAppend(&text, Draw(repairing));
  if (!limits.ok()) {
    absl::StrAppend(&text, "the limits of namespaces are unknown: ", Printable(limits.status().message()), "\n");
  }
  absl::StrAppend(&text, SilenceTowards(lines, "etcd", &store::StoreStats::etcd_unreachable_s),
                  SilenceTowards(lines, "the database", &store::StoreStats::database_unreachable_s));
  for (const Line& line : lines) absl::StrAppend(&text, Draw(line));
  for (const cluster::HotView::Encoding& one : hot) absl::StrAppend(&text, Draw(one));
  absl::StrAppend(&text, Draw(namespaces));
  return text;
}

std::string MemberStatus(const std::map<std::string, int64_t>& values) {
  const auto value = [&values](const std::string& name) {
    const auto found = values.find("cluster_" + name);
    return found == values.end() ? 0 : found->second;
  };
  if (!values.contains("cluster_epoch")) return "";
  std::string text =
      absl::StrFormat("%-11s epoch %d, %d members, %d of them alive; has %d of %d slots, %s to copy\n", "cluster",
                      value("epoch"), value("members_joining") + value("members_active") + value("members_draining"),
                      value("members_alive"), value("slots_done"), value("slots"), FormatBytes(value("bytes_left")));
  const auto more = [&text](const auto&... words) {
    absl::StrAppendFormat(&text, "%-11s %s\n", "", absl::StrCat(words...));
  };
  if (const int64_t failing = value("peers_failing"); failing > 0) {
    more(failing, " members fail repair's requests");
  }
  for (const auto& [what, name] :
       {std::pair("etcd", "etcd_unreachable_s"), {"the database", "database_unreachable_s"}}) {
    const int64_t seconds = value(name);
    if (seconds > 0) more(what, " has not answered for ", FormatClock(absl::Seconds(seconds)));
  }
  return text;
}

}  // namespace kvlink::cli
