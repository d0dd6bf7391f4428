// Sends spans to a collector (OTLP over HTTP, in JSON), in batches, on a thread of its own.
//
// Who adds spans never waits: they are queued, up to a limit, and dropped beyond it. A collector that is slow, away or
// talks nonsense costs spans and nothing else. A batch is sent again, after a growing pause, if there was no answer or
// one of 429, 502, 503 and 504, which may say when in Retry-After; so a collector may get a batch twice.
//
// Thread-safety: all methods.
#ifndef KVLINK_WORKER_SERVE_TRACE_EXPORTER_H_
#define KVLINK_WORKER_SERVE_TRACE_EXPORTER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "worker/serve/trace/collector.h"
#include "worker/serve/trace/span.h"

namespace kvlink::serve {

class SpanExporter {
 public:
  struct Options {
    CollectorUrl url;
    std::string authorities;                     // Collector::Create
    SpanAttributes resource;                     // what the process is
    int64_t max_queued = 8192;                   // spans
    int64_t max_batch = 512;                     // spans; a request's go together
    absl::Duration interval = absl::Seconds(1);  // how long a span may wait for others
    absl::Duration timeout = absl::Seconds(10);  // of an attempt
    int attempts = 5;                            // to send a batch, with pauses between them
    absl::Duration first_pause = absl::Seconds(1), max_pause = absl::Seconds(30);
    absl::Duration goodbye = absl::Seconds(2);  // how long the end waits for the collector to take what is queued
    std::function<void(const absl::Status&)> on_failure;  // why a batch was given up; on the thread; may be empty
  };
  // Errors of Collector::Create.
  static absl::StatusOr<std::unique_ptr<SpanExporter>> Start(Options options);
  // Sends what is queued, if the collector takes it in time.
  ~SpanExporter();

  // The spans of one request. Returns at once.
  void Add(std::vector<Span> spans);

  struct Stats {
    int64_t sent = 0;
    int64_t dropped = 0;  // for lack of room
    int64_t failed = 0;   // given up, or rejected by the collector
  };
  Stats stats() const;

 private:
  SpanExporter(Options options, std::unique_ptr<Collector> collector);
  void Run();
  // Waits for a batch. Empty: there is none, and there will be none.
  std::vector<Span> Take();
  void Send(const std::vector<Span>& batch);
  // The end cuts it short.
  void Pause(absl::Duration pause);
  bool ends() const;

  const Options options_;
  const std::unique_ptr<Collector> collector_;  // of the thread

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<std::vector<Span>> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t queued_ ABSL_GUARDED_BY(mutex_) = 0;                           // spans
  absl::Time ends_by_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // once it ends
  Stats stats_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_TRACE_EXPORTER_H_
