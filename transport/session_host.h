// The part common to all transports built on Session: the thread, the counters, the open sessions, connecting and
// shutting down.
//
// Thread-safety: as each method says. Lifetime: the transport stops listening, calls End(), and only then releases what
// its wires use.
#ifndef KVLINK_TRANSPORT_SESSION_HOST_H_
#define KVLINK_TRANSPORT_SESSION_HOST_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "transport/counters.h"
#include "transport/progress.h"
#include "transport/session.h"
#include "transport/transport.h"
#include "transport/wire.h"

namespace kvlink::transport {

class SessionHost {
 public:
  // `source` may be null; it must outlive the host. INVALID_ARGUMENT (options), RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<SessionHost>> Start(const TransportOptions& options, EventSource* source);
  ~SessionHost() { End(); }

  // Progress thread: adds a client session over `wire`, which the caller must start. The session is kept until its wire
  // is closed.
  std::shared_ptr<Session> Add(std::unique_ptr<Wire> wire);
  // Progress thread: like Add, for an accepted peer; starts the session. If too many peers have not said hello, closes
  // the oldest of them.
  std::shared_ptr<Session> AddAccepted(std::unique_ptr<Wire> wire, Accept accept);
  // Progress thread. Returns null if there is no such session.
  std::shared_ptr<Session> Find(uint64_t token) const;
  // Progress thread: whether any session is connected to `peer`.
  bool Knows(const std::string& peer) const { return peers_.contains(peer); }
  // Progress thread: whether one more connection may be accepted.
  bool HasRoom() const { return static_cast<int>(sessions_.size() - handshakes_.size()) < options_.max_connections; }

  // Any other thread. `dial` makes a wire, on the progress thread. Errors as Transport::Connect.
  absl::StatusOr<std::shared_ptr<Connection>> Connect(
      const std::function<absl::StatusOr<std::unique_ptr<Wire>>()>& dial, std::shared_ptr<ConnectionEvents> events,
      absl::Time deadline);
  // Any other thread: closes all connections, waits until none has a pending operation, and ends the thread. A peer can
  // delay it by at most twice the heartbeat limit. A second call does nothing.
  void End();

  ProgressThread& thread() { return *thread_; }
  Counters& counters() { return *counters_; }
  // Shared with registered buffers, which may outlive the transport.
  const std::shared_ptr<Counters>& shared_counters() const { return counters_; }
  TransportStats Stats() const { return counters_->Stats(thread_->wakeups()); }

 private:
  SessionHost(const TransportOptions& options, std::unique_ptr<ProgressThread> thread)
      : options_(options), counters_(std::make_shared<Counters>()), thread_(std::move(thread)) {}

  void HandshakeOver(Session* session);

  const TransportOptions options_;
  const std::shared_ptr<Counters> counters_;
  const std::unique_ptr<ProgressThread> thread_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<Session>> sessions_;  // by token; progress thread only
  absl::flat_hash_map<std::string, int> peers_;         // number of sessions by peer; progress thread only
  std::set<std::pair<uint64_t, uint64_t>> handshakes_;  // sessions without a hello: (order, token); progress thread
                                                        // only
  absl::flat_hash_map<uint64_t, uint64_t> orders_;      // of handshakes_, by token
  uint64_t last_order_ = 0;

  bool ended_ = false;  // used only by the thread that calls End
  Mutex mutex_;
  CondVar gone_;
  int64_t open_sessions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_SESSION_HOST_H_
