#include "store/node/watch/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <utility>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace kvlink::store::node {
namespace {

constexpr int kStatusCodes = 17;

prometheus::Histogram::BucketBoundaries LatencyBuckets() {
  return {2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30};
}

// Groups readings into families by name.
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
      "hello", "lookup",  "pull",        "push_begin",  "push",           "action",       "lease",
      "slots", "session", "catalog_put", "catalog_get", "catalog_delete", "catalog_list", "administration"};
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
};

Metrics::Metrics(Readings readings) : impl_(std::make_shared<Impl>(std::move(readings))) {}
Metrics::~Metrics() { StopServing(); }

void Metrics::Ended(Operation operation, absl::Duration took, absl::StatusCode code) {
  const int index = static_cast<int>(operation);
  impl_->latencies[index]->Observe(absl::ToDoubleSeconds(took));
  impl_->outcomes[index][static_cast<int>(code)]->Increment();
}

absl::StatusOr<std::string> Metrics::Serve(const std::string& address) {
  KVLINK_ASSIGN_OR_RETURN(server_, PageServer::Start(address, [this] { return Text(); }));
  return server_->address();
}

void Metrics::StopServing() { server_ = nullptr; }

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = impl_->registry->Collect();
  for (prometheus::MetricFamily& family : impl_->asked->Collect()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace kvlink::store::node
