// One thread, and one encoding at a time: a request's own loads have the rest of the store's bandwidth to themselves. A
// load that has begun is waited for as patiently as a request would: an early end would take it from who shares it.
#include "worker/serve/documents/prefetcher.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "base/clock.h"

namespace kvlink::serve {

Prefetcher::Prefetcher(infer::ResidentPool* pool, const Options& options, std::function<bool()> busy)
    : pool_(pool),
      options_(options),
      busy_(std::move(busy)),
      worker_({.name = "prefetches", .max_queued = options.max_queued, .nice = 10}) {}

bool Prefetcher::MayWait(const std::string& owner) {
  MutexLock lock(&mutex_);
  int& waiting = waiting_[owner];
  if (waiting < std::max(1, options_.max_queued / options_.shares)) {
    ++waiting;
    return true;
  }
  return false;
}

void Prefetcher::WaitsNoMore(const std::string& owner) {
  MutexLock lock(&mutex_);
  const auto found = waiting_.find(owner);
  if (--found->second == 0) waiting_.erase(found);
}

bool Prefetcher::Add(const std::string& owner, std::vector<Wanted> wanted) {
  const auto count = static_cast<int64_t>(wanted.size());
  if (!MayWait(owner)) {
    Count(&Stats::dropped, count);
    return false;
  }
  const absl::Time deadline = SteadyNow() + options_.patience;
  const absl::Status added =
      worker_.Add({.work =
                       [this, owner, deadline, wanted = std::move(wanted)](const absl::Status& turn) {
                         WaitsNoMore(owner);
                         if (turn.ok()) return LoadAll(wanted, deadline);
                         Count(&Stats::dropped, static_cast<int64_t>(wanted.size()));
                       },
                   .deadline = deadline,
                   .owner = owner});
  if (added.ok()) return true;
  WaitsNoMore(owner);
  Count(&Stats::dropped, count);
  return false;
}

void Prefetcher::Stop() {
  stopped_ = true;
  worker_.Stop();
}

Prefetcher::Stats Prefetcher::stats() const {
  MutexLock lock(&mutex_);
  return stats_;
}

void Prefetcher::Count(int64_t Stats::*what, int64_t encodings) {
  MutexLock lock(&mutex_);
  stats_.*what += encodings;
}

void Prefetcher::LoadAll(const std::vector<Wanted>& wanted, absl::Time deadline) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (stopped_ || busy_() || SteadyNow() >= deadline) {
      return Count(&Stats::dropped, static_cast<int64_t>(wanted.size() - i));
    }
    Load(wanted[i]);
    pool_->Trim();
  }
}

void Prefetcher::Load(const Wanted& wanted) {
  if (pool_->Find(wanted.identity) != nullptr) return Count(&Stats::there, 1);
  // On a device it does not queue for room, ahead of requests.
  auto acquired =
      pool_->Acquire({&wanted, 1}, {.deadline = SteadyNow() + options_.load_timeout, .cancelled = [] { return true; }});
  if (!acquired.ok()) return Count(&Stats::dropped, 1);
  const std::shared_ptr<infer::Resident> resident = std::move((*acquired)[0].resident);
  if (resident == nullptr) return Count(&Stats::missed, 1);
  for (int64_t layer = 0; layer < options_.layers; ++layer) {
    if (stopped_) return Count(&Stats::dropped, 1);
    if (resident->WaitLayer(layer, SteadyNow() + options_.load_timeout).ok()) continue;
    pool_->Drop(resident.get());
    return Count(&Stats::missed, 1);
  }
  Count(&Stats::loaded, 1);
}

}  // namespace kvlink::serve
