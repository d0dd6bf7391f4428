#include "store/node/watch/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace kvlink::store {
namespace {

constexpr int kStatusCodes = 17;
constexpr int kTiers = 3;

std::string TierName(int tier) { return tier == static_cast<int>(Tier::kDram) ? "dram" : "segments"; }

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
      "hello",   "lookup",      "pull",        "push_begin",     "push",         "mark",          "lease",
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
    auto& tokens =
        prometheus::BuildCounter().Name("kvlink_hit_tokens_total").Help("Tokens read, by tier").Register(*registry);
    auto& bytes =
        prometheus::BuildCounter().Name("kvlink_hit_bytes_total").Help("Bytes read, by tier").Register(*registry);
    for (int tier = 1; tier < kTiers; ++tier) {
      hit_tokens[tier] = &tokens.Add({{"tier", TierName(tier)}});
      hit_bytes[tier] = &bytes.Add({{"tier", TierName(tier)}});
    }
  }

  const std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  const std::shared_ptr<Asked> asked;
  std::array<prometheus::Histogram*, kOperations> latencies{};
  std::array<std::array<prometheus::Counter*, kStatusCodes>, kOperations> outcomes{};
  std::array<prometheus::Counter*, kTiers> hit_tokens{}, hit_bytes{};
  std::unique_ptr<prometheus::Exposer> exposer;
};

Metrics::Metrics(Readings readings) : impl_(std::make_shared<Impl>(std::move(readings))) {}
Metrics::~Metrics() { StopServing(); }

void Metrics::Ended(Operation operation, absl::Duration took, absl::StatusCode code) {
  const int index = static_cast<int>(operation);
  impl_->latencies[index]->Observe(absl::ToDoubleSeconds(took));
  impl_->outcomes[index][static_cast<int>(code)]->Increment();
}

void Metrics::Hit(Tier tier, int64_t tokens, int64_t bytes) {
  const int index = static_cast<int>(tier);
  if (tier == Tier::kNone) return;
  impl_->hit_tokens[index]->Increment(static_cast<double>(tokens));
  impl_->hit_bytes[index]->Increment(static_cast<double>(bytes));
}

absl::StatusOr<std::string> Metrics::Serve(const std::string& address) {
  // The library throws.
  try {
    impl_->exposer = std::make_unique<prometheus::Exposer>(address, 1);
    impl_->exposer->RegisterCollectable(impl_->registry);
    impl_->exposer->RegisterCollectable(impl_->asked);
  } catch (const std::exception& error) {
    impl_->exposer = nullptr;
    return absl::UnavailableError(absl::StrCat("cannot serve metrics at ", address, ": ", error.what()));
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

}  // namespace kvlink::store
