#include "store/client/data/node_channel.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/control/retry.h"

namespace kvlink::store::client {
namespace {

// An attempt to reach an absent node costs next to nothing, and a returning node should be found soon.
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(20), kMaxBackoff = absl::Milliseconds(250);
constexpr absl::Duration kClosing = absl::Seconds(10);

}  // namespace

NodeChannel::~NodeChannel() { Close(); }

void NodeChannel::Close() {
  std::vector<std::shared_ptr<NodeConnection>> connections;
  {
    MutexLock lock(&mutex_);
    closed_ = true;
    while (dialling_) changed_.Wait(&mutex_);
    connections.swap(retired_);
    if (connection_ != nullptr) connections.push_back(std::move(connection_));
    connection_ = nullptr;
    changed_.SignalAll();
  }
  for (const auto& connection : connections) connection->Close();
  const absl::Time limit = SteadyNow() + kClosing;
  for (const auto& connection : connections) connection->WaitClosed(limit);
}

std::shared_ptr<NodeConnection> NodeChannel::Present() {
  MutexLock lock(&mutex_);
  return !closed_ && usable() ? usage_.Hold(connection_) : nullptr;
}

void NodeChannel::Retire() {
  Prune();
  retired_.push_back(std::exchange(connection_, nullptr));
}

void NodeChannel::Prune() {
  retired_.erase(std::remove_if(retired_.begin(), retired_.end(),
                                [](const auto& connection) { return connection->WaitClosed(absl::InfinitePast()); }),
                 retired_.end());
}

bool NodeChannel::CloseIdle(absl::Time before) {
  std::shared_ptr<NodeConnection> idle;
  {
    MutexLock lock(&mutex_);
    if (dialling_) return false;
    Prune();
    if (connection_ == nullptr) return true;
    if (!usage_.IdleSince(before)) return false;
    idle = connection_;
    Retire();
  }
  idle->Close();
  return true;
}

absl::StatusOr<std::shared_ptr<NodeConnection>> NodeChannel::Acquire(absl::Time deadline) {
  ReleasableMutexLock lock(&mutex_);
  while (true) {
    if (closed_) return absl::UnavailableError("the store is closing");
    if (usable()) return usage_.Hold(connection_);
    if (!dialling_) break;
    if (!changed_.WaitUntil(&mutex_, deadline)) {
      return absl::DeadlineExceededError("no connection to the node in time");
    }
  }
  const absl::Time now = SteadyNow();
  if (now < not_before_) return WithRetryAfter(last_failure_, not_before_ - now + absl::Milliseconds(1));
  if (connection_ != nullptr && !connection_->open()) {
    Retire();
  }
  dialling_ = true;
  std::shared_ptr<NodeConnection> present = connection_;
  lock.Release();
  auto connected = Connect(std::move(present), std::min(deadline, now + connect_timeout_));
  lock.Reacquire();
  dialling_ = false;
  changed_.SignalAll();
  if (connected.ok()) {
    if (*connected != connection_ && ++connections_ > 1) ++counters_->reconnects;
    if (connection_ != nullptr && connection_ != *connected) Retire();
    connection_ = *connected;
    failures_ = 0;
    return usage_.Hold(connection_);
  }
  // A caller's short deadline says nothing about the node.
  if (!absl::IsDeadlineExceeded(connected.status()) || SteadyNow() >= now + connect_timeout_) {
    const absl::Duration backoff = JitteredBackoff(kFirstBackoff, kMaxBackoff, failures_++);
    not_before_ = SteadyNow() + backoff;
    last_failure_ = connected.status();
    if (absl::IsDeadlineExceeded(last_failure_)) last_failure_ = absl::UnavailableError(last_failure_.message());
  }
  if (absl::IsDeadlineExceeded(connected.status()) && SteadyNow() < deadline) {
    return absl::UnavailableError(connected.status().message());
  }
  return connected.status();
}

absl::StatusOr<std::shared_ptr<NodeConnection>> NodeChannel::Connect(std::shared_ptr<NodeConnection> connection,
                                                                     absl::Time deadline) {
  for (int attempt = 0;; ++attempt) {
    KVLINK_ASSIGN_OR_RETURN(const OpenedSession session, control_->Session(deadline));
    absl::Status failed;
    if (connection == nullptr || !connection->open()) {
      auto dialled = dial_(session, deadline);
      failed = dialled.status();
      connection = dialled.ok() ? *std::move(dialled) : nullptr;
    }
    if (failed.ok()) failed = connection->Hello(session, deadline);
    if (failed.ok()) return connection;
    if (connection != nullptr) {
      connection->Close();
      connection->WaitClosed(deadline);
      connection = nullptr;
    }
    // If the node was restarted, the session names addresses of the previous incarnation, and its token is unknown.
    const absl::Status renewed = control_->Renew(session.number, deadline);
    if (absl::IsUnauthenticated(renewed) && attempt == 0) continue;
    if (!absl::IsUnauthenticated(failed)) return failed;
    if (!renewed.ok()) return absl::UnavailableError(failed.message());
    return absl::FailedPreconditionError("what answers there is not the node that the session is with");
  }
}

}  // namespace kvlink::store::client
