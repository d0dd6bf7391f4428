// kvlink members shows what etcd says; this asks the nodes as well, and needs a key where they do.
#include "store/cli/cluster_status.h"

#include <map>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"
#include "store/cluster/members/records.h"

namespace kvlink::cli {
namespace {

namespace cluster = store::cluster;

int64_t EncodingsOf(const store::StoreStats& stats) {
  int64_t encodings = 0;
  for (const store::NamespaceStats& ns : stats.namespaces) encodings += ns.encodings;
  return encodings;
}

std::string Bytes(int64_t bytes) { return FormatBytes(static_cast<double>(bytes)); }

struct Line {
  cluster::NodeReport node;
  std::optional<cluster::ProgressRecord> progress;
};

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
    absl::StrAppend(&text, EncodingsOf(*node.stats), " encodings, ", Bytes(node.stats->segment_bytes_used), " of ",
                    Bytes(node.stats->segment_bytes), ", memory ", Bytes(node.stats->dram_bytes_used), " of ",
                    Bytes(node.stats->dram_bytes));
  } else {
    absl::StrAppend(&text, "does not answer: ", Printable(node.stats.status().message()));
  }
  if (line.progress.has_value() && !line.progress->complete()) {
    absl::StrAppend(&text, "; has ", line.progress->slots_done, " of ", line.progress->slots, " slots, ",
                    Bytes(static_cast<int64_t>(line.progress->bytes_left)), " to copy at ",
                    Bytes(static_cast<int64_t>(line.progress->bytes_per_second)), "/s");
  }
  return text + "\n";
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
  return absl::StrFormat("hot: %s of namespace %s (%s): about %d reads/s, %d of %d copies beyond its owners\n",
                         hot.name.identity.Hex(), Printable(hot.name.ns), std::string(CodecName(hot.name.codec)),
                         hot.reads_per_second, hot.holders.size(), hot.copies);
}

}  // namespace

std::string ClusterStatus(const ClusterStore& opened, bool json, bool one_line) {
  const auto view = opened.membership->view();
  const auto progress = opened.membership->progress();
  const cluster::MembershipHealth health = opened.membership->health();
  std::vector<Line> lines;
  for (cluster::NodeReport& node : opened.store->Nodes()) {
    const auto found = progress.find(node.member.node_id);
    lines.push_back({std::move(node), std::nullopt});
    if (found != progress.end()) lines.back().progress = found->second;
  }
  const auto hot = view->hot == nullptr ? absl::Span<const cluster::HotView::Encoding>() : view->hot->encodings();
  if (json) {
    nlohmann::json hot_encodings = nlohmann::json::array();
    for (const cluster::HotView::Encoding& one : hot) hot_encodings.push_back(ToJson(one));
    nlohmann::json members = nlohmann::json::array();
    for (const Line& line : lines) members.push_back(ToJson(line));
    nlohmann::json all = {{"cluster", view->settings.name},   {"cluster_id", cluster::IdHex(view->settings.id)},
                          {"copies", view->settings.copies},  {"acknowledged", view->settings.acknowledged},
                          {"epoch", view->placement.epoch()}, {"members", std::move(members)},
                          {"hot", std::move(hot_encodings)}};
    if (!health.status.ok()) all["problem"] = std::string(health.status.message());
    return all.dump(one_line ? -1 : 1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  std::string text = absl::StrCat("cluster ", view->settings.name, " (", cluster::IdHex(view->settings.id), "): epoch ",
                                  view->placement.epoch(), ", ", view->settings.copies, " copies, ",
                                  view->settings.acknowledged, " acknowledged\n");
  if (!health.status.ok()) {
    const bool away = absl::IsUnavailable(health.status) || absl::IsDeadlineExceeded(health.status);
    absl::StrAppend(&text, away ? "etcd does not answer since " : "what is known of the cluster may be old, since ",
                    FormatClock(SteadyNow() - health.since), ": ", Printable(health.status.message()), "\n");
  }
  for (const Line& line : lines) absl::StrAppend(&text, Draw(line));
  for (const cluster::HotView::Encoding& one : hot) absl::StrAppend(&text, Draw(one));
  return text;
}

}  // namespace kvlink::cli
