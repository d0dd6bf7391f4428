#include "store/node/service.h"

#include <utility>

#include "base/clock.h"

namespace kvlink::store::node {

Service::Service(const NodeLimits& limits, AccessList access, LogSink sink)
    : limits(limits),
      access(std::move(access)),
      boot_id(RandomBytes(16)),
      started(SteadyNow()),
      log(std::move(sink)),
      sessions({limits.sessions, limits.sessions_per_grant, limits.sessions_reserved}, limits.session_lifetime,
               [this](const engine::EncodingKey& key, uint64_t sequence) { (void)engine->Unpin(key, sequence); }),
      push_credit(limits.push_bytes, limits.push_bytes_beside_pulls, limits.push_yields),
      connection_quota("connections", limits.connections, limits.connections / limits.administrators_part),
      request_quota("requests", limits.requests, limits.requests / limits.administrators_part),
      request_bytes_quota("bytes of requests", limits.request_bytes, limits.request_bytes / limits.administrators_part),
      pull_quota("pulls", limits.pulls, limits.pulls / limits.administrators_part),
      push_quota("pushes", limits.pushes, limits.pushes / limits.administrators_part),
      lease_quota("leases", limits.leases, limits.leases / limits.administrators_part),
      namespaces(limits.namespaces, limits.namespaces / limits.administrators_part),
      answers(std::make_shared<transport::MessageBudget>(limits.answer_bytes)),
      serving(std::make_unique<Worker>(
          Worker::Options{.name = "serving", .threads = limits.serving_threads, .max_queued = limits.serving_queue})),
      indexing(std::make_unique<Worker>(Worker::Options{
          .name = "indexing", .threads = limits.indexing_threads, .max_queued = limits.indexing_queue, .nice = 5})),
      checking(std::make_unique<Worker>(
          Worker::Options{.name = "checking", .threads = 1, .max_queued = limits.checking_queue, .nice = 10})) {}

void Service::Drain() {
  if (!draining.exchange(true)) log.Info("draining");
}

void Service::AskStop() {
  MutexLock lock(&stop_mutex_);
  stop_asked_ = true;
  stop_changed_.SignalAll();
}

bool Service::WaitForStop(absl::Time deadline) {
  MutexLock lock(&stop_mutex_);
  while (!stop_asked_ && SteadyNow() < deadline) stop_changed_.WaitUntil(&stop_mutex_, deadline);
  return stop_asked_;
}

// The door is closed first and then looked behind: a request either sees it closed, or is counted here.
bool Service::FinishDrain() {
  const auto nothing = [this] { return pulls.load() == 0 && pushes.load() == 0 && leases.load() == 0; };
  if (!drained.load() && !nothing()) return false;
  drained.store(true);
  return request_quota.taken() == 0 && nothing();
}

}  // namespace kvlink::store::node
