#include "transport/session_host.h"

#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::transport {

absl::StatusOr<std::unique_ptr<SessionHost>> SessionHost::Start(const TransportOptions& options, EventSource* source) {
  if (options.heartbeat < absl::Milliseconds(100) || options.heartbeat > absl::Hours(1) || options.window_bytes < 1 ||
      options.max_connections < 1 || options.max_handshakes < 1) {
    return absl::InvalidArgumentError(
        "transport options: heartbeat is 100 ms to 1 h, window_bytes, max_connections and max_handshakes at least 1");
  }
  KVLINK_ASSIGN_OR_RETURN(auto thread, ProgressThread::Start(source));
  return std::unique_ptr<SessionHost>(new SessionHost(options, std::move(thread)));
}

std::shared_ptr<Session> SessionHost::Add(std::unique_ptr<Wire> wire) {
  Session::Options options;
  options.thread = thread_.get();
  options.counters = counters_.get();
  options.heartbeat = options_.heartbeat;
  options.window_bytes = options_.window_bytes;
  options.pause_at_bytes = options_.pause_at_bytes;
  options.budget = options_.budget;
  options.receive_within = options_.receive_within;
  options.on_open = [this](Session* session) { HandshakeOver(session); };
  options.on_gone = [this](Session* session) {
    HandshakeOver(session);
    sessions_.erase(session->token());
    const auto peer = peers_.find(session->peer());
    if (--peer->second == 0) peers_.erase(peer);
    MutexLock lock(&mutex_);
    --open_sessions_;
    gone_.SignalAll();
  };
  Wire* const attached = wire.get();
  auto session = std::make_shared<Session>(options, std::move(wire));
  attached->Attach(session);
  sessions_.emplace(session->token(), session);
  ++peers_[session->peer()];
  MutexLock lock(&mutex_);
  ++open_sessions_;
  return session;
}

void SessionHost::HandshakeOver(Session* session) {
  const auto found = orders_.find(session->token());
  if (found == orders_.end()) return;
  handshakes_.erase({found->second, session->token()});
  orders_.erase(found);
}

std::shared_ptr<Session> SessionHost::AddAccepted(std::unique_ptr<Wire> wire, Accept accept) {
  while (static_cast<int>(handshakes_.size()) >= options_.max_handshakes) {
    const auto oldest = Find(handshakes_.begin()->second);
    HandshakeOver(oldest.get());
    oldest->Shut(absl::UnavailableError(absl::StrCat(oldest->peer(), " sent no hello while others were waiting")),
                 "crowded-out", false);
  }
  const auto session = Add(std::move(wire));
  orders_.emplace(session->token(), ++last_order_);
  handshakes_.emplace(last_order_, session->token());
  session->StartServer(std::move(accept));
  return session;
}

std::shared_ptr<Session> SessionHost::Find(uint64_t token) const {
  const auto found = sessions_.find(token);
  return found == sessions_.end() ? nullptr : found->second;
}

absl::StatusOr<std::shared_ptr<Connection>> SessionHost::Connect(
    const std::function<absl::StatusOr<std::unique_ptr<Wire>>()>& dial, std::shared_ptr<ConnectionEvents> events,
    absl::Time deadline) {
  struct Outcome {
    Mutex mutex;
    CondVar decided;
    bool abandoned = false;
    std::shared_ptr<Session> session;
    std::unique_ptr<absl::Status> status;
  };
  const auto outcome = std::make_shared<Outcome>();
  KVLINK_RETURN_IF_ERROR(thread_->TryPost([this, dial, events = std::move(events), outcome] {
    const auto decide = [outcome](const absl::Status& status) {
      MutexLock lock(&outcome->mutex);
      outcome->status = std::make_unique<absl::Status>(status);
      outcome->decided.Signal();
      return !outcome->abandoned;
    };
    auto wire = dial();
    if (!wire.ok()) {
      decide(wire.status());
      return;
    }
    const auto session = Add(*std::move(wire));
    {
      MutexLock lock(&outcome->mutex);
      outcome->session = session;
    }
    session->StartClient(events, decide);
  }));
  std::shared_ptr<Session> session;
  {
    MutexLock lock(&outcome->mutex);
    while (outcome->status == nullptr) {
      if (!outcome->decided.WaitUntil(&outcome->mutex, deadline)) break;
    }
    session = std::exchange(outcome->session, nullptr);
    if (outcome->status != nullptr) {
      KVLINK_RETURN_IF_ERROR(*outcome->status);
      return HandleOf(std::move(session));
    }
    outcome->abandoned = true;
  }
  const absl::Status late = absl::DeadlineExceededError("the peer did not answer in time");
  thread_->Post([outcome, late] {
    std::shared_ptr<Session> session;
    {
      MutexLock lock(&outcome->mutex);
      session = std::exchange(outcome->session, nullptr);
    }
    if (session != nullptr) session->Shut(late, "connect", false);
  });
  if (session != nullptr) thread_->Post([session, late] { session->Shut(late, "connect", false); });
  return late;
}

void SessionHost::End() {
  if (std::exchange(ended_, true)) return;
  thread_->Run([this] {
    std::vector<std::shared_ptr<Session>> sessions;
    for (const auto& [token, session] : sessions_) sessions.push_back(session);
    for (const auto& session : sessions) session->Shut(absl::OkStatus(), "local", true);
  });
  {
    const absl::Time limit = SteadyNow() + 2 * options_.heartbeat;
    MutexLock lock(&mutex_);
    while (open_sessions_ > 0) {
      if (!gone_.WaitUntil(&mutex_, limit)) break;
    }
  }
  thread_->Stop();
}

}  // namespace kvlink::transport
