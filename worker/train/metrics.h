// The curves of a run: metrics.jsonl, one object a line with a step and numbers by name, which is what is kept; and
// what is made of it, events for TensorBoard and a picture.
//
// Thread-safety: one thread at a time; the file is locked against other processes while it is open.
#ifndef KVLINK_WORKER_TRAIN_METRICS_H_
#define KVLINK_WORKER_TRAIN_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/descriptor.h"

namespace kvlink::train {

struct Metric {
  int64_t step = 0;
  std::vector<std::pair<std::string, double>> values;  // not finite: null in the file
};

// Bytes of a TensorBoard event file (TFRecord of Event messages).
std::string EncodeEvents(const std::vector<Metric>& metrics);
// A script for cli::DrawPng that draws the losses; empty if there are none. Those of `concat`, which are measured once,
// are levels.
std::string CurvesPlot(const std::vector<Metric>& metrics);

class Metrics {
 public:
  // Opens DIRECTORY/metrics.jsonl and drops what it holds of later steps than `step`, and of that step what was
  // measured of held-out examples unless `measured`, so that a continued run writes each once. UNAVAILABLE: another
  // process is writing it; INVALID_ARGUMENT naming the line: not such a file.
  static absl::StatusOr<std::unique_ptr<Metrics>> Open(const std::string& directory, int64_t step,
                                                       bool measured = true);

  const std::vector<Metric>& all() const { return metrics_; }
  absl::Status Append(Metric metric);
  // Writes events.out.tfevents.kvlink anew.
  absl::Status WriteEvents() const;

 private:
  explicit Metrics(std::string directory) : directory_(std::move(directory)) {}
  absl::Status Read(int64_t step, bool measured);

  const std::string directory_;
  Descriptor file_;
  std::vector<Metric> metrics_;
};

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_METRICS_H_
