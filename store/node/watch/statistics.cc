#include "store/node/watch/statistics.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace kvlink::store {
namespace {

using Labels = std::map<std::string, std::string>;

class Page {
 public:
  void Gauge(std::string name, std::string help, double value, Labels labels = {}) {
    readings_.push_back({std::move(name), std::move(help), false, std::move(labels), value});
  }
  void Count(std::string name, std::string help, double value, Labels labels = {}) {
    readings_.push_back({std::move(name), std::move(help), true, std::move(labels), value});
  }
  std::vector<Metrics::Reading> Take() { return std::move(readings_); }

 private:
  std::vector<Metrics::Reading> readings_;
};

void EngineReadings(Service* service, Page* page) {
  const engine::Engine::Statistics now = service->engine->Stats();
  page->Gauge("tier_bytes", "Capacity of a tier", static_cast<double>(now.dram_bytes), {{"tier", "dram"}});
  page->Gauge("tier_bytes", "Capacity of a tier", static_cast<double>(now.segment_bytes), {{"tier", "segments"}});
  page->Gauge("tier_bytes_used", "Of a tier, by encodings", static_cast<double>(now.dram_bytes_used),
              {{"tier", "dram"}});
  page->Gauge("tier_bytes_used", "Of a tier, by encodings", static_cast<double>(now.segment_bytes_used),
              {{"tier", "segments"}});
  page->Count("hits_total", "Encodings found by reads", static_cast<double>(now.hits_dram), {{"tier", "dram"}});
  page->Count("hits_total", "Encodings found by reads", static_cast<double>(now.hits_segments), {{"tier", "segments"}});
  page->Count("misses_total", "Encodings that reads did not find", static_cast<double>(now.misses));
  page->Count("segment_read_bytes_total", "Read from segments", static_cast<double>(now.bytes_read));
  page->Count("segment_written_bytes_total", "Written to segments", static_cast<double>(now.bytes_written));
  const auto left = [page](const char* tier, const char* reason, int64_t count) {
    page->Count("evictions_total", "Encodings that left a tier, by reason", static_cast<double>(count),
                {{"tier", tier}, {"reason", reason}});
  };
  left("segments", "capacity", now.evicted_capacity);
  left("segments", "quota", now.evicted_quota);
  left("segments", "removed", now.removed);
  left("segments", "unreferenced", now.unreferenced);
  left("segments", "damaged", now.dropped_damaged);
  left("dram", "capacity", now.dram_evictions);
  page->Count("integrity_failures_total", "Encodings whose bytes failed their checksum",
              static_cast<double>(now.integrity_failures));
  page->Count("double_claims_total", "Encodings dropped at open because two claimed one block",
              static_cast<double>(now.double_claims));
  page->Count("scrubbed_bytes_total", "Read again by the scrubber", static_cast<double>(now.scrubbed_bytes));
  page->Count("scrub_damaged_total", "Encodings that the scrubber found damaged",
              static_cast<double>(now.scrub_damaged));
  page->Gauge("loads_in_flight", "Encodings being read from segments", static_cast<double>(now.loads_in_flight));
  page->Gauge("puts_in_flight", "Encodings being written or made durable", static_cast<double>(now.puts_in_flight));
  page->Gauge("disk_requests", "Of the store to the disk", static_cast<double>(now.reads_waiting),
              {{"kind", "read"}, {"state", "waiting"}});
  page->Gauge("disk_requests", "Of the store to the disk", static_cast<double>(now.reads_in_flight),
              {{"kind", "read"}, {"state", "in_flight"}});
  page->Gauge("disk_requests", "Of the store to the disk", static_cast<double>(now.writes_waiting),
              {{"kind", "write"}, {"state", "waiting"}});
  page->Gauge("disk_requests", "Of the store to the disk", static_cast<double>(now.writes_in_flight),
              {{"kind", "write"}, {"state", "in_flight"}});
  page->Gauge("engine_leases", "Encodings that a reader, transfer or write holds", static_cast<double>(now.leases));
  for (const auto& ns : now.namespaces) {
    const Labels labels = {{"namespace", ns.ns}};
    page->Gauge("namespace_encodings", "Encodings of a namespace", static_cast<double>(ns.encodings), labels);
    page->Gauge("namespace_bytes", "In segments", static_cast<double>(ns.bytes), labels);
    page->Gauge("namespace_pinned_bytes", "Of segments, by pinned encodings", static_cast<double>(ns.pinned_bytes),
                labels);
  }
}

void TransportReadings(Service* service, Page* page) {
  for (const auto& [scheme, stats] : service->transport_stats()) {
    const Labels labels = {{"transport", scheme}};
    page->Gauge("transport_connections", "Open connections", static_cast<double>(stats.connections), labels);
    page->Gauge("transport_registered_bytes", "Memory registered with a transport",
                static_cast<double>(stats.registered_bytes), labels);
    page->Gauge("transport_quarantined_bytes", "Memory that the network may still touch",
                static_cast<double>(stats.quarantined_bytes), labels);
    page->Count("transport_payload_bytes_total", "Payloads", static_cast<double>(stats.payload_bytes_sent),
                {{"transport", scheme}, {"direction", "sent"}});
    page->Count("transport_payload_bytes_total", "Payloads", static_cast<double>(stats.payload_bytes_landed),
                {{"transport", scheme}, {"direction", "landed"}});
    page->Count("transport_payloads_late_total", "Payloads that came after their landing was given up",
                static_cast<double>(stats.payloads_late), labels);
    for (const auto& [reason, count] : stats.closes) {
      page->Count("transport_closes_total", "Connections that ended, by reason", static_cast<double>(count),
                  {{"transport", scheme}, {"reason", reason}});
    }
  }
}

}  // namespace

std::map<std::string, int64_t> ValuesOf(Service* service, const engine::Engine::Statistics& statistics) {
  std::map<std::string, int64_t> values = {
      {"segment_bytes", statistics.segment_bytes},
      {"segment_bytes_used", statistics.segment_bytes_used},
      {"dram_bytes", statistics.dram_bytes},
      {"dram_bytes_used", statistics.dram_bytes_used},
      {"hits_dram", statistics.hits_dram},
      {"hits_segments", statistics.hits_segments},
      {"misses", statistics.misses},
      {"bytes_read", statistics.bytes_read},
      {"bytes_written", statistics.bytes_written},
      {"bytes_written_in_place", statistics.bytes_written_in_place},
      {"evictions", statistics.evictions},
      {"integrity_failures", statistics.integrity_failures},
      {"double_claims", statistics.double_claims},
      {"leases", statistics.leases},
      {"hit_tokens_dram", statistics.hit_tokens_dram},
      {"hit_tokens_segments", statistics.hit_tokens_segments},
      {"hit_bytes_dram", statistics.hit_bytes_dram},
      {"hit_bytes_segments", statistics.hit_bytes_segments},
      {"evicted_capacity", statistics.evicted_capacity},
      {"evicted_quota", statistics.evicted_quota},
      {"removed", statistics.removed},
      {"unreferenced", statistics.unreferenced},
      {"dropped_damaged", statistics.dropped_damaged},
      {"dram_evictions", statistics.dram_evictions},
      {"loads_in_flight", statistics.loads_in_flight},
      {"puts_in_flight", statistics.puts_in_flight},
      {"scrubbed_encodings", statistics.scrubbed_encodings},
      {"scrubbed_bytes", statistics.scrubbed_bytes},
      {"scrub_rounds", statistics.scrub_rounds},
      {"scrub_damaged", statistics.scrub_damaged},
      {"sessions", service->sessions.size()},
      {"connections", service->links.open()},
      {"pulls", service->pulls.load()},
      {"pushes", service->pushes.load()},
      {"mapped_leases", service->leases.load()},
      {"serving_queued", service->serving->queued()},
      {"indexing_queued", service->indexing->queued()},
      {"malformed_requests", service->metrics->malformed()},
      {"uptime_ms", absl::ToInt64Milliseconds(SteadyNow() - service->started)},
  };
  int64_t pinned = 0;
  for (const auto& ns : statistics.namespaces) pinned += ns.pinned_bytes;
  values["pinned_bytes"] = pinned;
  int64_t sent = 0, landed = 0, registered = 0, quarantined = 0;
  for (const auto& [scheme, stats] : service->transport_stats()) {
    sent += stats.payload_bytes_sent;
    landed += stats.payload_bytes_landed;
    registered += stats.registered_bytes;
    quarantined += stats.quarantined_bytes;
  }
  values["payload_bytes_sent"] = sent;
  values["payload_bytes_landed"] = landed;
  values["registered_bytes"] = registered;
  values["quarantined_bytes"] = quarantined;
  return values;
}

std::map<std::string, std::string> TextsOf(Service* service, const engine::Engine::Statistics& statistics) {
  std::string data;
  for (const std::string& address : service->data_addresses) absl::StrAppend(&data, data.empty() ? "" : " ", address);
  return {{"io", statistics.io},
          {"version", service->version},
          {"state", service->draining.load() ? "draining" : "serving"},
          {"boot_id", absl::BytesToHexString({service->boot_id.data(), service->boot_id.size()})},
          {"data", data},
          {"local_socket", service->local_socket}};
}

std::vector<Metrics::Reading> ReadingsOf(Service* service) {
  Page page;
  EngineReadings(service, &page);
  TransportReadings(service, &page);
  page.Gauge("sessions", "Open sessions", static_cast<double>(service->sessions.size()));
  page.Gauge("connections", "Open connections of the data path", static_cast<double>(service->links.open()));
  page.Gauge("pulls", "Pulls under way", static_cast<double>(service->pulls.load()));
  page.Gauge("pushes", "Pushes under way", static_cast<double>(service->pushes.load()));
  page.Gauge("mapped_leases", "Leases of readers that map the memory", static_cast<double>(service->leases.load()));
  page.Gauge("push_bytes_laid_out", "Memory laid out for pushes and not filled",
             static_cast<double>(service->push_credit.taken()));
  const std::pair<const char*, const Worker*> lanes[] = {{"serving", service->serving.get()},
                                                         {"indexing", service->indexing.get()},
                                                         {"checking", service->checking.get()}};
  for (const auto& [name, lane] : lanes) {
    page.Gauge("queued_requests", "Requests that wait for their turn", static_cast<double>(lane->queued()),
               {{"lane", name}});
  }
  page.Gauge("queued_answer_bytes", "Answers that clients have not taken yet, in memory",
             static_cast<double>(service->answers->taken()));
  page.Count("malformed_requests_total", "Messages that could not be read",
             static_cast<double>(service->metrics->malformed()));
  page.Gauge("draining", "1: the node takes no new sessions and pushes", service->draining.load() ? 1 : 0);
  page.Gauge("start_time_seconds", "Since 1970", absl::ToDoubleSeconds(service->started - absl::UnixEpoch()));
  return page.Take();
}

}  // namespace kvlink::store
