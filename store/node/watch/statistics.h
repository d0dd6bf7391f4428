// A node's statistics, each defined once in a table (statistics.cc, and store/engine/statistics.h for the engine's),
// for the Stats call and for Prometheus. Thread-safety: any thread, while the node serves.
#ifndef KVLINK_STORE_NODE_WATCH_STATISTICS_H_
#define KVLINK_STORE_NODE_WATCH_STATISTICS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "store/engine/engine.h"
#include "store/node/watch/metrics.h"

namespace kvlink::store::node {

struct Service;

// How a statistic is shown: `name` in the protocol and in JSON, kvlink_`metric`{labels} in Prometheus.
struct Statistic {
  const char* name;
  bool counts;  // only ever grows
  const char* metric;
  const char* labels;  // "key=value,key=value"
  const char* help;
};
// All of them, in display order.
std::vector<Statistic> AllStatistics();

// Statistics of one namespace.
struct NamespaceFigures {
  engine::NamespaceSettings settings;
  int64_t encodings = 0, bytes = 0, pinned_bytes = 0, documents = 0, dram_bytes = 0;
};
std::map<std::string, NamespaceFigures> NamespacesOf(const engine::Engine::Statistics& statistics,
                                                     const std::map<std::string, engine::NamespaceSettings>& settings);

// The statistics of all parts, for code that knows only its own part. Lifetime: the service must outlive it.
class Figures {
 public:
  virtual ~Figures() = default;
  virtual std::map<std::string, int64_t> Values(const engine::Engine::Statistics& statistics) const = 0;
  virtual std::map<std::string, std::string> Texts(const engine::Engine::Statistics& statistics) const = 0;
};

class NodeFigures : public Figures {
 public:
  explicit NodeFigures(Service* service) : service_(service) {}
  std::map<std::string, int64_t> Values(const engine::Engine::Statistics& statistics) const override;
  std::map<std::string, std::string> Texts(const engine::Engine::Statistics& statistics) const override;
  std::vector<Metrics::Reading> Readings() const;

 private:
  Service* const service_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_WATCH_STATISTICS_H_
