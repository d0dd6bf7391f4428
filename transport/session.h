// The protocol of one connection, whatever carries it: hello, messages, credits, deadlines, quarantine, heartbeat.
//
// A posted receive is granted to the peer, which may then send that payload once. A payload that was not granted, is
// larger than its receive, or comes twice ends the connection before a byte is written. A posted receive that is given
// up before its payload came is withdrawn; a payload that crosses with the withdrawal is dropped.
//
// Thread-safety: the progress thread, except methods marked otherwise. Lifetime: shared by the transport (until
// on_gone), by the user's handle, and by whatever the wire has under way.
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
    ProgressThread* thread;  // both outlive the session's last event
    Counters* counters;
    absl::Duration heartbeat;
    int64_t window_bytes;
    int64_t pause_at_bytes = 0;
    std::shared_ptr<MessageBudget> budget;
    absl::Duration receive_within = absl::InfiniteDuration();
    // Of a server's, once: the peer has said hello.
    std::function<void(Session*)> on_open;
    // The wire is closed and nothing of the connection is under way any more.
    std::function<void(Session*)> on_gone;
  };
  Session(const Options& options, std::unique_ptr<Wire> wire);
  ~Session();

  // Says hello. `established` once: OK when the peer has answered, else why not. It returns whether anybody still wants
  // the connection; only then are `events` told of anything.
  void StartClient(std::shared_ptr<ConnectionEvents> events, std::function<bool(const absl::Status&)> established);
  // Waits for the peer's hello for 10 s, then asks `accept`.
  void StartServer(Accept accept);

  // From the wire.
  void OnFrame(absl::string_view bytes);
  void OnPayload(absl::string_view bytes, Offer* offer);
  // A part of a payload has come, of a wire that receives them in parts.
  void OnProgress() { heard_ = thread_->now(); }
  Wire* wire() { return wire_.get(); }
  void OnDisconnected(const absl::Status& why) { Shut(why, "network", false); }

  // From the user's handle (Connection).
  void SendMessage(std::string frame);  // a kMessage frame with its header left to fill
  void PostReceive(uint64_t id, const Slice& into, absl::Time deadline, Received done);
  void Send(uint64_t id, const Slice& from, absl::Time deadline, Sent done);
  void CancelReceive(uint64_t id);
  void CancelSend(uint64_t id);
  // Closes for a reason that is counted. `flush`: frames under way go first, within the heartbeat limit.
  void Shut(const absl::Status& why, absl::string_view reason, bool flush);

  // Any thread.
  absl::Status Reserve(int64_t message_bytes);  // as Connection::SendMessage
  void Unreserve(int64_t message_bytes);        // the message will not be sent
  const std::string& peer() const { return peer_; }
  // The number that the peer puts into its frames: random, so that one peer cannot speak for another.
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

  // Validates, files under its id and arms its deadline. Completes it and returns null if that cannot be.
  TransferPointer Open(Transfers* open, uint64_t id, const Slice& slice, absl::Time deadline, Received done,
                       bool receive);
  void AwaitReceive(const TransferPointer& transfer, absl::Time deadline);
  void MatchCredit(const TransferPointer& transfer, uint64_t bytes);
  void Complete(Transfer* transfer, const absl::Status& status, int64_t bytes);
  void GiveUp(uint64_t id, bool receive, const absl::Status& status);
  void WireDone(Transfer* transfer, const absl::Status& status);
  // Starts sends that have credit while the window has room.
  void Pump();

  void SendFrame(
      FrameKind kind, absl::string_view body, std::function<void()> taken = [] {});
  void QueueControl();
  // Of messages: what Reserve took.
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
  std::map<uint64_t, TransferPointer> ready_;        // sends with credit that are not in the network, in order of Send
  absl::flat_hash_map<uint64_t, uint64_t> credits_;  // receives of the peer that no payload was started for -> bytes
  RecentIds withdrawn_credits_;
  uint64_t last_order_ = 0;
  int64_t in_network_ = 0, in_network_bytes_ = 0;  // sends
  int64_t in_wire_ = 0;                            // transfers, both ways

  absl::Duration peer_heartbeat_ = absl::Seconds(2);
  bool busy_ = false, beating_ = false, paused_ = false;
  absl::Time busy_since_, heard_, spoke_, tick_due_;
  Timers::Id tick_, handshake_, flush_limit_;
};

// The user's end of a session.
std::shared_ptr<Connection> HandleOf(std::shared_ptr<Session> session);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_SESSION_H_
