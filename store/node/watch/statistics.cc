// Each statistic is a row in a table: its name, its form in Prometheus, and the source of its value. The protocol and
// JSON use the names, Prometheus the metrics; none has a list of its own. Statistics with a variable number of values
// (namespaces, transports) follow the tables.
#include "store/node/watch/statistics.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "store/engine/statistics.h"
#include "store/node/service.h"

namespace kvlink::store::node {
namespace {

using Labels = std::map<std::string, std::string>;
constexpr bool kGauge = false, kCount = true;

// Sources of all statistics, collected once.
struct Sources {
  Service* service;
  const engine::Engine::Statistics& engine;
  transport::TransportStats transports;  // summed
};

struct Row {
  Statistic shown;
  int64_t (*value)(const Sources& from);
};

#define KVLINK_ROW(name, kind, metric, labels, help) \
  {{#name, k##kind, metric, labels, help}, [](const Sources& from) -> int64_t { return from.engine.name; }},
constexpr Row kEngineRows[] = {KVLINK_ENGINE_STATISTICS(KVLINK_ROW)};
#undef KVLINK_ROW

// clang-format off
constexpr Row kNodeRows[] = {
    {{"sessions", kGauge, "sessions", "", "Open sessions"},
     [](const Sources& from) { return from.service->core.sessions.size(); }},
    {{"connections", kGauge, "connections", "", "Open connections of the data path"},
     [](const Sources& from) -> int64_t { return from.service->data.connections.open(); }},
    {{"pulls", kGauge, "pulls", "", "Pulls under way"},
     [](const Sources& from) { return from.service->core.traffic.pulls.load(); }},
    {{"pushes", kGauge, "pushes", "", "Pushes under way"},
     [](const Sources& from) { return from.service->core.traffic.pushes.load(); }},
    {{"mapped_leases", kGauge, "mapped_leases", "", "Leases of readers that map the memory"},
     [](const Sources& from) { return from.service->core.traffic.leases.load(); }},
    {{"push_bytes_laid_out", kGauge, "push_bytes_laid_out", "", "Memory laid out for pushes and not filled"},
     [](const Sources& from) -> int64_t { return from.service->data.push_credit.taken(); }},
    {{"serving_queued", kGauge, "queued_requests", "lane=serving", "Requests that wait for their turn"},
     [](const Sources& from) { return from.service->data.serving->queued(); }},
    {{"indexing_queued", kGauge, "queued_requests", "lane=indexing", "Requests that wait for their turn"},
     [](const Sources& from) { return from.service->data.indexing->queued(); }},
    {{"checking_queued", kGauge, "queued_requests", "lane=checking", "Requests that wait for their turn"},
     [](const Sources& from) { return from.service->data.checking->queued(); }},
    {{"queued_answer_bytes", kGauge, "queued_answer_bytes", "", "Answers that clients have not taken yet"},
     [](const Sources& from) -> int64_t { return from.service->data.answers->taken(); }},
    {{"malformed_requests", kCount, "malformed_requests_total", "", "Messages that could not be read"},
     [](const Sources& from) { return from.service->core.metrics->malformed(); }},
    {{"log_dropped", kCount, "log_dropped_total", "", "Lines of the log that nobody took in time"},
     [](const Sources& from) { return from.service->core.log.dropped(); }},
    {{"payload_bytes_sent", kCount, "payload_bytes_total", "direction=sent", "Payloads of all transports"},
     [](const Sources& from) { return from.transports.payload_bytes_sent; }},
    {{"payload_bytes_received", kCount, "payload_bytes_total", "direction=received", "Payloads of all transports"},
     [](const Sources& from) { return from.transports.payload_bytes_received; }},
    {{"registered_bytes", kGauge, "registered_bytes", "", "Memory registered with transports"},
     [](const Sources& from) { return from.transports.registered_bytes; }},
    {{"quarantined_bytes", kGauge, "quarantined_bytes", "", "Memory that the network may still touch"},
     [](const Sources& from) { return from.transports.quarantined_bytes; }},
    {{"draining", kGauge, "draining", "", "1: the node takes no new sessions and pushes"},
     [](const Sources& from) -> int64_t { return from.service->core.draining.begun() ? 1 : 0; }},
    {{"uptime_ms", kGauge, "uptime_milliseconds", "", "Since the node was started"},
     [](const Sources& from) { return absl::ToInt64Milliseconds(SteadyNow() - from.service->core.started); }},
    {{"clock_us", kGauge, "clock_microseconds", "", "The store's clock, since 1970"},
     [](const Sources& from) { return static_cast<int64_t>(from.service->core.engine->Now()); }},
};
// clang-format on

Sources SourcesOf(Service* service, const engine::Engine::Statistics& statistics) {
  Sources from{service, statistics, {}};
  for (const auto& [scheme, carrier] : service->transports) {
    const transport::TransportStats stats = carrier->Stats();
    from.transports.payload_bytes_sent += stats.payload_bytes_sent;
    from.transports.payload_bytes_received += stats.payload_bytes_received;
    from.transports.registered_bytes += stats.registered_bytes;
    from.transports.quarantined_bytes += stats.quarantined_bytes;
  }
  return from;
}

template <typename Visit>
void ForEachRow(Visit visit) {
  for (const Row& row : kEngineRows) visit(row);
  for (const Row& row : kNodeRows) visit(row);
}

Labels LabelsOf(absl::string_view text) {
  Labels labels;
  for (const absl::string_view pair : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(pair, absl::MaxSplits('=', 1));
    labels.emplace(parts.first, parts.second);
  }
  return labels;
}

class Page {
 public:
  void Gauge(std::string name, std::string help, int64_t value, Labels labels = {}) {
    readings_.push_back({std::move(name), std::move(help), kGauge, std::move(labels), static_cast<double>(value)});
  }
  void Count(std::string name, std::string help, int64_t value, Labels labels = {}) {
    readings_.push_back({std::move(name), std::move(help), kCount, std::move(labels), static_cast<double>(value)});
  }
  void Add(Metrics::Reading reading) { readings_.push_back(std::move(reading)); }
  std::vector<Metrics::Reading> Take() { return std::move(readings_); }

 private:
  std::vector<Metrics::Reading> readings_;
};

void NamespaceReadings(const std::map<std::string, NamespaceFigures>& namespaces, Page* page) {
  for (const auto& [name, figures] : namespaces) {
    const Labels labels = {{"namespace", name}};
    page->Gauge("namespace_encodings", "Encodings of a namespace", figures.encodings, labels);
    page->Gauge("namespace_documents", "Documents of a namespace", figures.documents, labels);
    page->Gauge("namespace_bytes", "In segments", figures.bytes, labels);
    page->Gauge("namespace_pinned_bytes", "Of segments, by pinned encodings", figures.pinned_bytes, labels);
    page->Gauge("namespace_dram_bytes", "In memory", figures.dram_bytes, labels);
  }
}

void TransportReadings(Service* service, Page* page) {
  for (const auto& [scheme, carrier] : service->transports) {
    const transport::TransportStats stats = carrier->Stats();
    const Labels labels = {{"transport", scheme}};
    page->Gauge("transport_connections", "Open connections", stats.connections, labels);
    page->Gauge("transport_registered_bytes", "Memory registered with a transport", stats.registered_bytes, labels);
    page->Gauge("transport_quarantined_bytes", "Memory that the network may still touch", stats.quarantined_bytes,
                labels);
    page->Count("transport_payload_bytes_total", "Payloads", stats.payload_bytes_sent,
                {{"transport", scheme}, {"direction", "sent"}});
    page->Count("transport_payload_bytes_total", "Payloads", stats.payload_bytes_received,
                {{"transport", scheme}, {"direction", "received"}});
    page->Count("transport_payloads_late_total", "Payloads that came after their receive was given up",
                stats.payloads_late, labels);
    for (const auto& [reason, count] : stats.closes) {
      page->Count("transport_closes_total", "Connections that ended, by reason", count,
                  {{"transport", scheme}, {"reason", reason}});
    }
  }
}

}  // namespace

std::vector<Statistic> AllStatistics() {
  std::vector<Statistic> all;
  ForEachRow([&](const Row& row) { all.push_back(row.shown); });
  return all;
}

std::map<std::string, NamespaceFigures> NamespacesOf(const engine::Engine::Statistics& statistics,
                                                     const std::map<std::string, engine::NamespaceSettings>& settings) {
  std::map<std::string, NamespaceFigures> namespaces;
  for (const auto& [name, of] : settings) namespaces[name].settings = of;
  for (const auto& use : statistics.namespaces) {
    NamespaceFigures& figures = namespaces[use.ns];
    figures.encodings = use.encodings;
    figures.bytes = use.bytes;
    figures.pinned_bytes = use.pinned_bytes;
  }
  for (const auto& [name, documents] : statistics.documents) {
    if (documents > 0 || namespaces.contains(name)) namespaces[name].documents = documents;
  }
  for (const auto& [name, bytes] : statistics.dram_bytes_by_namespace) {
    if (bytes > 0 || namespaces.contains(name)) namespaces[name].dram_bytes = bytes;
  }
  return namespaces;
}

std::map<std::string, int64_t> NodeFigures::Values(const engine::Engine::Statistics& statistics) const {
  const Sources from = SourcesOf(service_, statistics);
  std::map<std::string, int64_t> values;
  ForEachRow([&](const Row& row) { values[row.shown.name] = row.value(from); });
  return values;
}

std::map<std::string, std::string> NodeFigures::Texts(const engine::Engine::Statistics& statistics) const {
  std::string data;
  for (const std::string& address : service_->core.whereabouts.data_addresses)
    absl::StrAppend(&data, data.empty() ? "" : " ", address);
  return {{"io", statistics.io},
          {"version", service_->core.whereabouts.version},
          {"state", service_->core.draining.begun() ? "draining" : "serving"},
          {"node_id", absl::BytesToHexString({service_->core.node_id.data(), service_->core.node_id.size()})},
          {"incarnation", absl::StrCat(service_->core.incarnation)},
          {"data", data},
          {"local_socket", service_->core.whereabouts.local_socket}};
}

std::vector<Metrics::Reading> NodeFigures::Readings() const {
  const engine::Engine::Statistics now = service_->core.engine->Stats();
  const Sources from = SourcesOf(service_, now);
  Page page;
  ForEachRow([&](const Row& row) {
    page.Add({row.shown.metric, row.shown.help, row.shown.counts, LabelsOf(row.shown.labels),
              static_cast<double>(row.value(from))});
  });
  NamespaceReadings(NamespacesOf(now, service_->core.engine->NamespaceSettingsAll()), &page);
  TransportReadings(service_, &page);
  return page.Take();
}

}  // namespace kvlink::store::node
