#include "store/node/core.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::store::node {

void Draining::Begin() {
  if (!begun_.exchange(true)) log_->Info("draining");
}

// First closes the door, then looks inside: a request either sees it closed, or is counted here.
bool Draining::Finish() {
  if (!refuses_.load() && !traffic_->idle()) return false;
  refuses_.store(true);
  return traffic_->requests.taken() == 0 && traffic_->idle();
}

void Draining::AskStop() {
  MutexLock lock(&mutex_);
  stop_asked_ = true;
  changed_.SignalAll();
}

bool Draining::WaitForStop(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (!stop_asked_ && SteadyNow() < deadline) changed_.WaitUntil(&mutex_, deadline);
  return stop_asked_;
}

Core::Core(const NodeLimits& limits, AccessList access, LogSink sink, std::shared_ptr<const Ownership> ownership)
    : limits(limits),
      access(std::move(access)),
      ownership(ownership != nullptr ? std::move(ownership) : std::make_shared<const Ownership>()),
      started(SteadyNow()),
      log(std::move(sink)),
      sessions({limits.sessions, limits.sessions_per_grant, limits.sessions_reserved}, limits.session_lifetime,
               [this](const engine::EncodingKey& key, uint64_t sequence) { (void)engine->Unpin(key, sequence); }),
      strangers(limits.unidentified),
      namespaces(limits.namespaces, limits.namespaces / limits.administrators_part),
      traffic(limits),
      read_rates(limits.read_rates_half_life),
      draining(&log, &traffic) {}

}  // namespace kvlink::store::node
