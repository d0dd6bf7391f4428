// One open data connection to a node: sends requests, passes answers to their waiters, numbers receives.
//
// Thread-safety: all methods. Lifetime: shared by the channel that dialled it, its pending operations, and, until
// OnClosed, the transport.
#ifndef KVLINK_STORE_CLIENT_DATA_NODE_CONNECTION_H_
#define KVLINK_STORE_CLIENT_DATA_NODE_CONNECTION_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "proto/data.h"
#include "store/client/control/control.h"
#include "store/client/data/signal.h"
#include "transport/local/local.h"
#include "transport/transport.h"

namespace kvlink::store::client {

// Receives the answers to a request. Called on the carrier's thread, in order; must return soon.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  // `status` is the answer's.
  virtual void OnAnswer(const absl::Status& status, const proto::Answer& answer) = 0;
  // The connection is closed; no more answers follow.
  virtual void OnClosed(const absl::Status& why) = 0;
};

// Receives answers that belong to no request (local connections). Called as AnswerSink is.
class UnsolicitedSink {
 public:
  virtual ~UnsolicitedSink() = default;
  virtual void OnUnsolicited(const proto::Answer& answer, std::vector<Descriptor> descriptors) = 0;
};

// A queue of answers for a waiting thread.
class AnswerQueue : public AnswerSink {
 public:
  void OnAnswer(const absl::Status& status, const proto::Answer& answer) override;
  void OnClosed(const absl::Status& why) override;
  // Returns the next answer, or its error. UNAVAILABLE: closed. DEADLINE_EXCEEDED.
  absl::StatusOr<proto::Answer> Next(absl::Time deadline);

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<absl::StatusOr<proto::Answer>> answers_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
};

// A counting semaphore: at most this many holders at a time.
class Slots {
 public:
  explicit Slots(int most) : free_(most) {}
  // Waits for a free slot. DEADLINE_EXCEEDED.
  absl::Status Take(absl::Time deadline);
  // Returns false if none is free; `freed` is then raised when that may have changed.
  bool TryTake(const std::shared_ptr<Signal>& freed);
  void Give();

 private:
  Mutex mutex_;
  CondVar changed_;
  int free_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<Signal>> waiting_ ABSL_GUARDED_BY(mutex_);
};

// State shared by all requests of a client, over any connection.
struct RequestSource {
  std::atomic<uint64_t> next_id{1};
  std::function<uint64_t()> placement;  // RemoteOptions::placement
};

class NodeConnection : public transport::LocalEvents, public std::enable_shared_from_this<NodeConnection> {
 public:
  // `source` must outlive it. `unsolicited` may be null.
  NodeConnection(RequestSource* source, std::shared_ptr<UnsolicitedSink> unsolicited)
      : source_(source), unsolicited_(std::move(unsolicited)) {}

  // Call first.
  void Bind(std::shared_ptr<transport::Connection> connection);
  // Identifies this client to the node, initially and after each new session. UNAUTHENTICATED: the node does not know
  // the session. FAILED_PRECONDITION: it does, but is another node, or another incarnation, than the session's.
  absl::Status Hello(const OpenedSession& session, absl::Time deadline);
  uint64_t session() const { return session_.load(std::memory_order_acquire); }
  // From the node's Welcome.
  absl::Duration lease() const { return lease_; }
  Slots& pulls() { return *pulls_; }
  Slots& pushes() { return *pushes_; }
  // Receives that one pull may have open at a time, so that all pulls together stay within the connection's limit.
  int receives_per_pull() const { return receives_per_pull_; }

  bool open() const { return open_.load(std::memory_order_acquire); }
  void Close();
  // Waits until the transport is done with the connection. Returns false at the deadline.
  bool WaitClosed(absl::Time deadline);
  transport::Connection* carrier() const { return carrier_.get(); }
  const std::shared_ptr<UnsolicitedSink>& unsolicited() const { return unsolicited_; }

  // Returns a request with a new number, or with `id`.
  proto::Request NewRequest(absl::string_view ns, absl::Time deadline, uint64_t id = 0) const;
  // Sends a request whose answers go to `sink` until Forget. UNAVAILABLE, RESOURCE_EXHAUSTED (with RetryAfter): not
  // sent.
  absl::Status Ask(const proto::Request& request, std::shared_ptr<AnswerSink> sink);
  void Forget(uint64_t id);
  // Sends a request whose answer is ignored. Best effort.
  void Tell(const proto::Request& request);
  // Reports that no answer has arrived since `asked` although one was awaited. A connection that has been silent for
  // two seconds in total while requests waited, since it was last heard of, is closed.
  void Unanswered(absl::Time asked);
  // Sends a request and waits for one answer; if none comes, calls Unanswered.
  absl::StatusOr<proto::Answer> Call(const proto::Request& request, absl::Time deadline);
  // Allocates `count` consecutive numbers for receives; returns the first.
  uint64_t NewPayloadIds(int64_t count) { return next_payload_id_.fetch_add(count, std::memory_order_relaxed); }

  void OnMessage(absl::string_view message) override;
  void OnMessageWithDescriptors(absl::string_view message, std::vector<Descriptor> descriptors) override;
  void OnClosed(const absl::Status& why) override;

 private:
  RequestSource* const source_;
  const std::shared_ptr<UnsolicitedSink> unsolicited_;
  std::atomic<bool> open_{false};
  std::atomic<uint32_t> protocol_{kProtocols.max};
  std::atomic<uint64_t> session_{0};
  std::atomic<uint64_t> next_payload_id_{1};
  std::atomic<int64_t> heard_{0};  // of the last answer; nanoseconds since 1970

  // Set before the connection is shared.
  std::shared_ptr<transport::Connection> carrier_;
  uint64_t incarnation_ = 0;
  absl::Duration lease_;
  std::unique_ptr<Slots> pulls_, pushes_;
  int receives_per_pull_ = 1;

  Mutex mutex_;
  CondVar gone_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<AnswerSink>> sinks_ ABSL_GUARDED_BY(mutex_);
  absl::Duration silent_ ABSL_GUARDED_BY(mutex_);  // total silence, for Unanswered
  absl::Time silent_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
  absl::Status unreadable_ ABSL_GUARDED_BY(mutex_);  // why an answer could not be parsed
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// The milliseconds until `deadline`, as carried by requests.
uint32_t RemainingMilliseconds(absl::Time deadline);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_NODE_CONNECTION_H_
