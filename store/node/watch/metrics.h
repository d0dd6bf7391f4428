// A node's Prometheus metrics. Keeps counters and histograms; reads at each scrape what other parts know anyway (tiers,
// namespaces, transports).
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_WATCH_METRICS_H_
#define KVLINK_STORE_NODE_WATCH_METRICS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "store/node/watch/page_server.h"

namespace kvlink::store::node {

enum class Operation : uint8_t {
  kHello,
  kLookup,
  kPull,
  kPushBegin,
  kPush,
  kAction,
  kLease,
  kSlots,
  kSession,
  kCatalogPut,
  kCatalogGet,
  kCatalogDelete,
  kCatalogList,
  kAdministration
};
inline constexpr int kOperations = 14;
absl::string_view OperationName(Operation operation);

class Metrics {
 public:
  // A value read at each scrape: kvlink_NAME{LABELS}.
  struct Reading {
    std::string name, help;
    bool counts = false;  // only ever grows
    std::map<std::string, std::string> labels;
    double value = 0;
  };
  using Readings = std::function<std::vector<Reading>()>;

  explicit Metrics(Readings readings);
  ~Metrics();

  // Records the end of an operation, its duration and its outcome.
  void Ended(Operation operation, absl::Duration took, absl::StatusCode code);
  void Malformed() { malformed_.fetch_add(1, std::memory_order_relaxed); }
  int64_t malformed() const { return malformed_.load(std::memory_order_relaxed); }

  // Serves http://ADDRESS/metrics. Returns the address, with the chosen port. UNAVAILABLE: cannot listen there.
  absl::StatusOr<std::string> Serve(const std::string& address);
  void StopServing();
  // The page as served.
  std::string Text() const;

 private:
  struct Impl;
  const std::shared_ptr<Impl> impl_;
  std::atomic<int64_t> malformed_{0};
  std::unique_ptr<PageServer> server_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_WATCH_METRICS_H_
