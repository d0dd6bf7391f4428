#include "worker/serve/trace/exporter.h"

#include <algorithm>
#include <iterator>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/serve/trace/otlp.h"

namespace kvlink::serve {
namespace {

// Whether sending the same again may help, as OTLP says.
bool IsWorthRepeating(int status) { return status == 429 || status == 502 || status == 503 || status == 504; }

// Pauses of many servers must not end together.
absl::Duration Jittered(absl::Duration pause) {
  thread_local std::minstd_rand random{std::random_device{}()};
  return pause * std::uniform_real_distribution<double>(0.5, 1)(random);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SpanExporter>> SpanExporter::Start(Options options) {
  KVLINK_ASSIGN_OR_RETURN(std::unique_ptr<Collector> collector, Collector::Create(options.url, options.authorities));
  return std::unique_ptr<SpanExporter>(new SpanExporter(std::move(options), std::move(collector)));
}

SpanExporter::SpanExporter(Options options, std::unique_ptr<Collector> collector)
    : options_(std::move(options)), collector_(std::move(collector)), thread_("span-export", [this] { Run(); }) {}

SpanExporter::~SpanExporter() {
  {
    MutexLock lock(&mutex_);
    ends_by_ = SteadyNow() + options_.goodbye;
    changed_.SignalAll();
  }
  thread_.Join();
}

void SpanExporter::Add(std::vector<Span> spans) {
  const auto count = static_cast<int64_t>(spans.size());
  MutexLock lock(&mutex_);
  if (queued_ + count > options_.max_queued) {
    stats_.dropped += count;
    return;
  }
  const bool wakes = queue_.empty() || queued_ + count >= options_.max_batch;
  queue_.push_back(std::move(spans));
  queued_ += count;
  if (wakes) changed_.Signal();
}

SpanExporter::Stats SpanExporter::stats() const {
  MutexLock lock(&mutex_);
  return stats_;
}

void SpanExporter::Run() {
  while (true) {
    const std::vector<Span> batch = Take();
    if (batch.empty()) return;
    Send(batch);
  }
}

std::vector<Span> SpanExporter::Take() {
  MutexLock lock(&mutex_);
  while (queue_.empty()) {
    if (ends_by_ != absl::InfiniteFuture()) return {};
    changed_.Wait(&mutex_);
  }
  const absl::Time full_by = SteadyNow() + options_.interval;
  while (queued_ < options_.max_batch && ends_by_ == absl::InfiniteFuture()) {
    if (!changed_.WaitUntil(&mutex_, full_by)) break;
  }
  std::vector<Span> batch;
  while (!queue_.empty() && static_cast<int64_t>(batch.size()) < options_.max_batch) {
    std::vector<Span>& next = queue_.front();
    queued_ -= static_cast<int64_t>(next.size());
    std::move(next.begin(), next.end(), std::back_inserter(batch));
    queue_.pop_front();
  }
  return batch;
}

void SpanExporter::Send(const std::vector<Span>& batch) {
  const std::string body = OtlpRequest(options_.resource, batch, absl::Now() - SteadyNow());
  const auto count = static_cast<int64_t>(batch.size());
  absl::Duration pause = options_.first_pause;
  absl::Status why;
  for (int attempt = 1;; ++attempt) {
    const absl::Time deadline = SteadyNow() + options_.timeout;
    const bool last = attempt == options_.attempts || ends();
    const auto answer = collector_->Post(body, [&] {
      MutexLock lock(&mutex_);
      return std::min(deadline, ends_by_);
    });
    if (answer.ok() && answer->status >= 200 && answer->status < 300) {
      const int64_t rejected = std::min(count, RejectedSpans(answer->body));
      MutexLock lock(&mutex_);
      stats_.sent += count - rejected;
      stats_.failed += rejected;
      return;
    }
    why =
        answer.ok() ? absl::UnavailableError(absl::StrCat("the collector answered ", answer->status)) : answer.status();
    if (last || !(answer.ok() ? IsWorthRepeating(answer->status) : !absl::IsDataLoss(answer.status()))) break;
    const bool asked = answer.ok() && answer->retry_after > absl::ZeroDuration();
    Pause(asked ? answer->retry_after : Jittered(pause));
    pause = std::min(2 * pause, options_.max_pause);
  }
  {
    MutexLock lock(&mutex_);
    stats_.failed += count;
  }
  if (options_.on_failure) options_.on_failure(why);
}

void SpanExporter::Pause(absl::Duration pause) {
  const absl::Time until = SteadyNow() + pause;
  MutexLock lock(&mutex_);
  while (ends_by_ == absl::InfiniteFuture() && changed_.WaitUntil(&mutex_, until)) {
  }
}

bool SpanExporter::ends() const {
  MutexLock lock(&mutex_);
  return ends_by_ != absl::InfiniteFuture();
}

}  // namespace kvlink::serve
