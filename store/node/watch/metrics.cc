#include "store/node/watch/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/descriptor.h"
#include "base/status.h"
#include "transport/address.h"

namespace kvlink::store::node {
namespace {

constexpr int kStatusCodes = 17;
// A connection that says nothing takes a thread of the HTTP server until its time is over.
constexpr char kThreads[] = "8", kRequestMilliseconds[] = "1000", kQueue[] = "64";

// The HTTP server says nothing of why it does not start, so the system is asked first.
absl::Status CheckFree(const std::string& address) {
  KVLINK_ASSIGN_OR_RETURN(const transport::Address parsed, transport::ParseAddress(address));
  KVLINK_ASSIGN_OR_RETURN(const transport::SocketAddress resolved, transport::Resolve(parsed));
  const Descriptor probe(socket(resolved.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (probe.get() >= 0) (void)setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (probe.get() >= 0 && bind(probe.get(), resolved.get(), resolved.length) == 0 && listen(probe.get(), 1) == 0) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(
      absl::StrCat("cannot serve metrics at ", address, ": ", std::strerror(errno), "; name another address"));
}

prometheus::Histogram::BucketBoundaries LatencyBuckets() {
  return {2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30};
}

// Readings as families: one for each name.
class Asked : public prometheus::Collectable {
 public:
  explicit Asked(Metrics::Readings readings) : readings_(std::move(readings)) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    std::map<std::string, size_t> known;
    for (const Metrics::Reading& reading : readings_()) {
      const auto [place, made] = known.emplace(reading.name, families.size());
      if (made) {
        families.push_back({});
        families.back().name = "kvlink_" + reading.name;
        families.back().help = reading.help;
        families.back().type = reading.counts ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
      }
      prometheus::ClientMetric metric;
      for (const auto& [name, value] : reading.labels) metric.label.push_back({name, value});
      metric.counter.value = reading.value;
      metric.gauge.value = reading.value;
      families[place->second].metric.push_back(std::move(metric));
    }
    return families;
  }

 private:
  const Metrics::Readings readings_;
};

}  // namespace

absl::string_view OperationName(Operation operation) {
  static constexpr absl::string_view kNames[kOperations] = {
      "hello",   "lookup",      "pull",        "push_begin",     "push",         "action",        "lease",
      "session", "catalog_put", "catalog_get", "catalog_delete", "catalog_list", "administration"};
  return kNames[static_cast<int>(operation)];
}

struct Metrics::Impl {
  explicit Impl(Readings readings) : asked(std::make_shared<Asked>(std::move(readings))) {
    auto& latency = prometheus::BuildHistogram()
                        .Name("kvlink_operation_seconds")
                        .Help("From the arrival of a request to its last answer")
                        .Register(*registry);
    auto& ended =
        prometheus::BuildCounter().Name("kvlink_operations_total").Help("Requests by outcome").Register(*registry);
    for (int operation = 0; operation < kOperations; ++operation) {
      const std::string name(OperationName(static_cast<Operation>(operation)));
      latencies[operation] = &latency.Add({{"operation", name}}, LatencyBuckets());
      for (int code = 0; code < kStatusCodes; ++code) {
        const std::string outcome = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
        outcomes[operation][code] = &ended.Add({{"operation", name}, {"code", outcome}});
      }
    }
  }

  const std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  const std::shared_ptr<Asked> asked;
  std::array<prometheus::Histogram*, kOperations> latencies{};
  std::array<std::array<prometheus::Counter*, kStatusCodes>, kOperations> outcomes{};
  std::unique_ptr<prometheus::Exposer> exposer;
};

Metrics::Metrics(Readings readings) : impl_(std::make_shared<Impl>(std::move(readings))) {}
Metrics::~Metrics() { StopServing(); }

void Metrics::Ended(Operation operation, absl::Duration took, absl::StatusCode code) {
  const int index = static_cast<int>(operation);
  impl_->latencies[index]->Observe(absl::ToDoubleSeconds(took));
  impl_->outcomes[index][static_cast<int>(code)]->Increment();
}

absl::StatusOr<std::string> Metrics::Serve(const std::string& address) {
  KVLINK_RETURN_IF_ERROR(CheckFree(address));
  // The library throws.
  try {
    impl_->exposer = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", address, "num_threads", kThreads, "request_timeout_ms", kRequestMilliseconds,
        "keep_alive_timeout_ms", kRequestMilliseconds, "connection_queue", kQueue});
    impl_->exposer->RegisterCollectable(impl_->registry);
    impl_->exposer->RegisterCollectable(impl_->asked);
  } catch (const std::exception& error) {
    impl_->exposer = nullptr;
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics at ", address, ": the HTTP server does not start (", error.what(), ")"));
  }
  const std::vector<int> ports = impl_->exposer->GetListeningPorts();
  if (ports.empty()) return absl::UnavailableError(absl::StrCat("cannot serve metrics at ", address));
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", ports[0]);
}

void Metrics::StopServing() { impl_->exposer = nullptr; }

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = impl_->registry->Collect();
  for (prometheus::MetricFamily& family : impl_->asked->Collect()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace kvlink::store::node
