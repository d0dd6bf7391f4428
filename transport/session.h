// The protocol of one connection, independent of its carrier: hello, messages, credits, deadlines, quarantine,
// heartbeat.
//
// A posted receive is granted to the peer, which may then send that payload once. A payload that was not granted, is
// larger than its receive, or arrives twice closes the connection before a byte is written. A posted receive that is
// given up before its payload arrived is withdrawn; a payload that crosses the withdrawal is dropped.
//
// Thread-safety: the progress thread, except methods marked otherwise. Lifetime: shared by the transport (until
// on_gone), the user's handle, and the wire's pending operations.
#ifndef KVLINK_TRANSPORT_SESSION_H_
#define KVLINK_TRANSPORT_SESSION_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "transport/counters.h"
#include "transport/frame.h"
#include "transport/progress.h"
#include "transport/transport.h"
#include "transport/wire.h"

namespace kvlink::transport {

// A set of ids that remembers only the latest kMaxOperations.
class RecentIds {
 public:
  void Add(uint64_t id);
  bool Remove(uint64_t id) { return ids_.erase(id) > 0; }

 private:
  absl::flat_hash_set<uint64_t> ids_;
  std::deque<uint64_t> order_;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  struct Options {
    ProgressThread* thread;  // both must outlive the session's last event
    Counters* counters;
    absl::Duration heartbeat;
    int64_t window_bytes;
    int64_t pause_at_bytes = 0;
    std::shared_ptr<MessageBudget> budget;
    absl::Duration receive_within = absl::InfiniteDuration();
    // Server only, called once: the peer has said hello.
    std::function<void(Session*)> on_open;
    // The wire is closed and no operation of the connection is pending.
    std::function<void(Session*)> on_gone;
  };
  Session(const Options& options, std::unique_ptr<Wire> wire);
  ~Session();

  // Says hello. `established` is called once: OK when the peer has answered, otherwise why it did not. It returns
  // whether the caller still wants the connection; if so, `events` are delivered from then on.
  void StartClient(std::shared_ptr<ConnectionEvents> events, std::function<bool(const absl::Status&)> established);
  // Waits up to 10 s for the peer's hello, then calls `accept`.
  void StartServer(Accept accept);

  // Called by the wire.
  void OnFrame(absl::string_view bytes);
  void OnPayload(absl::string_view bytes, Offer* offer);
  // Part of a payload has arrived (for wires that receive them in parts).
  void OnProgress() { heard_ = thread_->now(); }
  Wire* wire() { return wire_.get(); }
  void OnDisconnected(const absl::Status& why) { Shut(why, "network", false); }

  // Called by the user's handle (Connection).
  void SendMessage(std::string frame);  // a kMessage frame whose header is still to be filled in
  void PostReceive(uint64_t id, const Slice& into, absl::Time deadline, Received done);
  void Send(uint64_t id, const Slice& from, absl::Time deadline, Sent done);
  void CancelReceive(uint64_t id);
  void CancelSend(uint64_t id);
  // Closes for a counted reason. `flush`: sends the queued frames first, within the heartbeat limit.
  void Shut(const absl::Status& why, absl::string_view reason, bool flush);

  // Any thread.
  absl::Status Reserve(int64_t message_bytes);  // as Connection::SendMessage
  void Unreserve(int64_t message_bytes);        // releases a reservation if the message will not be sent
  const std::string& peer() const { return peer_; }
  // The number the peer puts into its frames. Random, so that one peer cannot impersonate another.
  uint64_t token() const { return token_; }
  ProgressThread* thread() const { return thread_; }

 private:
  struct Transfer;
  using TransferPointer = std::shared_ptr<Transfer>;
  using Transfers = absl::flat_hash_map<uint64_t, TransferPointer>;
  enum class State { kNew, kOpen, kClosed };

  void OnHello(const Frame& frame);
  void OnGrants(const std::vector<Grant>& grants);
  void OnWithdraw(const std::vector<uint64_t>& ids);
  void Violation(absl::string_view reason, const std::string& what);

  // Validates a transfer, registers it under its id and arms its deadline. On failure completes it and returns null.
  TransferPointer Open(Transfers* open, uint64_t id, const Slice& slice, absl::Time deadline, Received done,
                       bool receive);
  void AwaitReceive(const TransferPointer& transfer, absl::Time deadline);
  void MatchCredit(const TransferPointer& transfer, uint64_t bytes);
  void Complete(Transfer* transfer, const absl::Status& status, int64_t bytes);
  void GiveUp(uint64_t id, bool receive, const absl::Status& status);
  void WireDone(Transfer* transfer, const absl::Status& status);
  // Starts sends that have credit, as long as the window has room.
  void Pump();

  void SendFrame(
      FrameKind kind, absl::string_view body, std::function<void()> taken = [] {});
  void QueueControl();
  // Returns what Reserve took for messages.
  void Return(int64_t cost);
  void FlushControl();

  bool Busy() const;
  void UpdateBusy();
  void Tick();
  void ScheduleTick();

  ProgressThread* const thread_;
  Counters* const counters_;
  const absl::Duration heartbeat_;
  const int64_t window_bytes_;
  const int64_t pause_at_bytes_;
  const std::shared_ptr<MessageBudget> budget_;
  const absl::Duration receive_within_;
  std::function<void(Session*)> on_open_;
  const std::function<void(Session*)> on_gone_;
  const std::unique_ptr<Wire> wire_;
  const std::string peer_;
  const uint64_t token_;

  std::atomic<bool> open_{true};
  std::atomic<int64_t> queued_message_bytes_{0};

  State state_ = State::kNew;
  uint64_t peer_token_ = 0;
  uint32_t sent_frames_ = 0, received_frames_ = 0;
  std::shared_ptr<ConnectionEvents> events_;
  std::function<bool(const absl::Status&)> established_;
  Accept accept_;

  Transfers receives_;
  RecentIds withdrawn_receives_;
  std::vector<Grant> grants_to_send_;
  std::vector<uint64_t> withdrawals_to_send_;
  bool control_queued_ = false;

  Transfers sends_;
  std::map<uint64_t, TransferPointer> ready_;        // sends with credit not yet in the network, in order of Send
  absl::flat_hash_map<uint64_t, uint64_t> credits_;  // the peer's receives with no payload started -> bytes
  RecentIds withdrawn_credits_;
  uint64_t last_order_ = 0;
  int64_t in_network_ = 0, in_network_bytes_ = 0;  // sends
  int64_t in_wire_ = 0;                            // transfers in both directions

  absl::Duration peer_heartbeat_ = absl::Seconds(2);
  bool busy_ = false, beating_ = false, paused_ = false;
  absl::Time busy_since_, heard_, spoke_, tick_due_;
  Timers::Id tick_, handshake_, flush_limit_;
};

// Returns the user's end of a session.
std::shared_ptr<Connection> HandleOf(std::shared_ptr<Session> session);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_SESSION_H_
