// What the server counts, as a page in Prometheus's text format: its own counters and histograms, and readings of what
// other parts count. Thread-safety: all methods.
#ifndef KVLINK_WORKER_SERVE_METRICS_H_
#define KVLINK_WORKER_SERVE_METRICS_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "worker/infer/generator.h"
#include "worker/infer/scheduler.h"
#include "worker/serve/http/server.h"
#include "worker/serve/spans.h"
#include "worker/serve/trace/exporter.h"

namespace kvlink::serve {

// A value: kvlink_serve_NAME{LABELS}.
struct Reading {
  absl::string_view name;
  absl::string_view help;
  bool counts = false;  // only ever grows
  double value = 0;
  std::string labels = {};  // `place="disk"`
};

// The readings of one scrape.
std::vector<Reading> ReadingsOf(const infer::Scheduler::Stats& scheduler, const infer::Generator::Stats& generator,
                                const HttpServer::Stats& http, const SpanExporter::Stats& spans);

class Metrics {
 public:
  // `ns`: the namespace of what it counts.
  explicit Metrics(absl::string_view ns);

  // The end of a request. `route`: from a fixed set.
  void Ended(absl::string_view route, int status, absl::Duration took);
  // What the request's time was taken for.
  void Took(const std::vector<RequestPhase>& phases);
  // Of an answer: from the arrival of its request to its first token, and from each token to the next.
  void FirstToken(absl::Duration took);
  void NextToken(absl::Duration took);
  // The tokens of a prompt, of these from encodings, and of its answer.
  void Answered(int64_t prompt, int64_t cached);

  std::string Page(const std::vector<Reading>& readings) const;

 private:
  static constexpr std::array<double, 19> kSeconds = {
      0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300};
  struct Histogram {
    std::array<int64_t, kSeconds.size() + 1> counts = {};  // the last one: beyond all
    double sum = 0;
    void Add(absl::Duration took);
  };
  static void Append(absl::string_view name, absl::string_view help, const std::map<std::string, Histogram>& histograms,
                     std::string* page);

  // `namespace="docs",phase="load",place="disk"`, without what is empty.
  std::string LabelsOf(absl::string_view phase, absl::string_view place) const;

  const std::string ns_;
  mutable Mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> requests_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Histogram> took_ ABSL_GUARDED_BY(mutex_);  // by labels, as below
  std::map<std::string, Histogram> phases_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int64_t> loaded_bytes_ ABSL_GUARDED_BY(mutex_);
  Histogram first_ ABSL_GUARDED_BY(mutex_), next_ ABSL_GUARDED_BY(mutex_);
  int64_t prompt_ ABSL_GUARDED_BY(mutex_) = 0, cached_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_METRICS_H_
