// Each statistic is a row in a table: its name, its form in Prometheus, and the source of its value. The protocol and
// JSON use the names, Prometheus the metrics; none has a list of its own. Statistics with a variable number of values
// (namespaces, transports) follow the tables.
#include "store/node/watch/statistics.h"

#include <iterator>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "store/engine/statistics.h"
#include "store/node/service.h"
#include "store/node/watch/figure_rows.h"

namespace kvlink::store::node {
namespace {

using Labels = std::map<std::string, std::string>;

// Sources of all statistics, collected once.
struct Sources {
  Service* service;
  const engine::Engine::Statistics& engine;
  transport::TransportStats transports;  // summed
};

#define KVLINK_ROW(name, kind, metric, labels, help) \
  {{#name, k##kind, metric, labels, help}, [](const Sources& from) -> int64_t { return from.engine.name; }},
constexpr FigureRow<Sources> kEngineRows[] = {KVLINK_ENGINE_STATISTICS(KVLINK_ROW)};
#undef KVLINK_ROW

// clang-format off
constexpr FigureRow<Sources> kNodeRows[] = {
    {{"sessions", kGauge, "sessions", "", "Open sessions"},
     [](const Sources& from) { return from.service->core.sessions.size(); }},
    {{"connections", kGauge, "connections", "", "Open data connections"},
     [](const Sources& from) -> int64_t { return from.service->data.connections.open(); }},
    {{"pulls", kGauge, "pulls", "", "Pulls in progress"},
     [](const Sources& from) { return from.service->core.traffic.pulls.load(); }},
    {{"pushes", kGauge, "pushes", "", "Pushes in progress"},
     [](const Sources& from) { return from.service->core.traffic.pushes.load(); }},
    {{"mapped_leases", kGauge, "mapped_leases", "", "Leases held by readers that map the memory"},
     [](const Sources& from) { return from.service->core.traffic.leases.load(); }},
    {{"push_bytes_laid_out", kGauge, "push_bytes_laid_out", "", "Bytes laid out for pushes and not yet filled"},
     [](const Sources& from) -> int64_t { return from.service->data.push_credit.taken(); }},
    {{"serving_queued", kGauge, "queued_requests", "lane=serving", "Requests waiting in a lane"},
     [](const Sources& from) { return from.service->data.serving->queued(); }},
    {{"indexing_queued", kGauge, "queued_requests", "lane=indexing", "Requests waiting in a lane"},
     [](const Sources& from) { return from.service->data.indexing->queued(); }},
    {{"checking_queued", kGauge, "queued_requests", "lane=checking", "Requests waiting in a lane"},
     [](const Sources& from) { return from.service->data.checking->queued(); }},
    {{"queued_answer_bytes", kGauge, "queued_answer_bytes", "", "Bytes of answers that clients have not read yet"},
     [](const Sources& from) -> int64_t { return from.service->data.answers->taken(); }},
    {{"malformed_requests", kCount, "malformed_requests_total", "", "Messages that could not be read"},
     [](const Sources& from) { return from.service->core.metrics->malformed(); }},
    {{"log_dropped", kCount, "log_dropped_total", "", "Log lines dropped because they were not read in time"},
     [](const Sources& from) { return from.service->core.log.dropped(); }},
    {{"payload_bytes_sent", kCount, "payload_bytes_total", "direction=sent", "Payload bytes of all transports"},
     [](const Sources& from) { return from.transports.payload_bytes_sent; }},
    {{"payload_bytes_received", kCount, "payload_bytes_total", "direction=received", "Payload bytes of all transports"},
     [](const Sources& from) { return from.transports.payload_bytes_received; }},
    {{"registered_bytes", kGauge, "registered_bytes", "", "Bytes of memory registered with transports"},
     [](const Sources& from) { return from.transports.registered_bytes; }},
    {{"quarantined_bytes", kGauge, "quarantined_bytes", "", "Bytes of memory that the network may still access"},
     [](const Sources& from) { return from.transports.quarantined_bytes; }},
    {{"draining", kGauge, "draining", "", "1 if the node takes no new sessions and pushes"},
     [](const Sources& from) -> int64_t { return from.service->core.draining.begun() ? 1 : 0; }},
    {{"uptime_ms", kGauge, "uptime_milliseconds", "", "Milliseconds since the node started"},
     [](const Sources& from) { return absl::ToInt64Milliseconds(SteadyNow() - from.service->core.started); }},
    {{"clock_us", kGauge, "clock_microseconds", "", "The store's clock, in microseconds since 1970"},
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

void NamespaceReadings(const std::map<std::string, NamespaceFigures>& namespaces, double share, Page* page) {
  for (const auto& [name, figures] : namespaces) {
    const engine::NamespaceSettings here = engine::ShareOf(figures.settings, share);
    const Labels labels = {{"namespace", name}};
    page->Gauge("namespace_encodings", "Encodings of a namespace", figures.encodings, labels);
    page->Gauge("namespace_documents", "Documents of a namespace", figures.documents, labels);
    page->Gauge("namespace_bytes", "Bytes of segments used by a namespace", figures.bytes, labels);
    page->Gauge("namespace_capacity_bytes",
                "Bytes of segments a namespace may use on this node; 0: no limit of its own", here.capacity_bytes,
                labels);
    page->Gauge("namespace_pinned_bytes", "Bytes of segments used by pinned encodings of a namespace",
                figures.pinned_bytes, labels);
    page->Gauge("namespace_dram_bytes", "Bytes of the DRAM tier used by a namespace", figures.dram_bytes, labels);
  }
}

void TransportReadings(Service* service, Page* page) {
  for (const auto& [scheme, carrier] : service->transports) {
    const transport::TransportStats stats = carrier->Stats();
    const Labels labels = {{"transport", scheme}};
    page->Gauge("transport_connections", "Open connections of a transport", stats.connections, labels);
    page->Gauge("transport_registered_bytes", "Bytes of memory registered with a transport", stats.registered_bytes,
                labels);
    page->Gauge("transport_quarantined_bytes", "Bytes of memory that the network may still access",
                stats.quarantined_bytes, labels);
    page->Count("transport_payload_bytes_total", "Payload bytes of a transport", stats.payload_bytes_sent,
                {{"transport", scheme}, {"direction", "sent"}});
    page->Count("transport_payload_bytes_total", "Payload bytes of a transport", stats.payload_bytes_received,
                {{"transport", scheme}, {"direction", "received"}});
    page->Count("transport_payloads_late_total", "Payloads that arrived after their receive was given up",
                stats.payloads_late, labels);
    for (const auto& [reason, count] : stats.closes) {
      page->Count("transport_closes_total", "Closed connections, by reason", count,
                  {{"transport", scheme}, {"reason", reason}});
    }
  }
}

}  // namespace

std::vector<Statistic> AllStatistics() {
  std::vector<Statistic> all;
  for (const auto& row : kEngineRows) all.push_back(row.shown);
  for (const auto& row : kNodeRows) all.push_back(row.shown);
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

std::vector<Figure> NodeFigures::All(const engine::Engine::Statistics& statistics) const {
  const Sources from = SourcesOf(service_, statistics);
  std::vector<Figure> all = FiguresOf(kEngineRows, from);
  absl::c_move(FiguresOf(kNodeRows, from), std::back_inserter(all));
  if (beside_) absl::c_move(beside_(), std::back_inserter(all));
  return all;
}

std::map<std::string, int64_t> NodeFigures::Values(const engine::Engine::Statistics& statistics) const {
  std::map<std::string, int64_t> values;
  for (const Figure& figure : All(statistics)) values[figure.shown.name] = figure.value;
  return values;
}

std::map<std::string, std::string> NodeFigures::Texts(const engine::Engine::Statistics& statistics) const {
  std::string data;
  for (const std::string& address : service_->core.whereabouts.data_addresses)
    absl::StrAppend(&data, data.empty() ? "" : " ", address);
  return {{"io", statistics.io},
          {"version", service_->core.whereabouts.version},
          {"state", service_->core.draining.begun() ? "draining" : "serving"},
          {"node_id", absl::BytesToHexString(BytesOf(service_->core.node_id))},
          {"incarnation", absl::StrCat(service_->core.incarnation)},
          {"data", data},
          {"local_socket", service_->core.whereabouts.local_socket}};
}

std::vector<Metrics::Reading> NodeFigures::Readings() const {
  const engine::Engine::Statistics now = service_->core.engine->Stats();
  Page page;
  for (const auto& [shown, value] : All(now)) {
    page.Add({shown.metric, shown.help, shown.counts, LabelsOf(shown.labels), static_cast<double>(value)});
  }
  engine::Engine* const of = service_->core.engine.get();
  NamespaceReadings(NamespacesOf(now, of->NamespaceSettingsAll()), of->share_of_limits(), &page);
  TransportReadings(service_, &page);
  return page.Take();
}

}  // namespace kvlink::store::node
