// One client's connection to the node's data path, over any carrier: the client's session, its work in progress, and
// the way to send it answers and payloads.
//
// Thread-safety: all methods. Lifetime: shared by the carrier (until the connection has closed) and by every pending
// request; the node waits for the last reference.
#ifndef KVLINK_STORE_NODE_DATA_CLIENT_CONNECTION_H_
#define KVLINK_STORE_NODE_DATA_CLIENT_CONNECTION_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "proto/data.h"
#include "store/engine/engine.h"
#include "store/node/sessions.h"
#include "store/node/watch/metrics.h"
#include "transport/transport.h"

namespace kvlink::store::node {

struct DataContext;
class ClientConnection;

// The carrier's side of a connection. Thread-safe.
class ClientChannel {
 public:
  virtual ~ClientChannel() = default;
  // Errors as transport::Connection::SendMessage.
  virtual absl::Status Send(absl::string_view answer) = 0;
  // Sends an answer with a file descriptor, which the receiver gets as a duplicate. UNIMPLEMENTED: the carrier does not
  // support it.
  virtual absl::Status SendDescriptor(absl::string_view answer, int descriptor);
  virtual bool carries_descriptors() const { return false; }
  // The connection that carries payloads, or null. Lives as long as the channel.
  virtual transport::Connection* payloads() { return nullptr; }
  // The transport's number in the MemoryMap.
  virtual size_t transport() const { return 0; }
  virtual void Close() = 0;
  virtual std::string peer() const = 0;
};

// A pull or push in progress on a connection. It ends itself, or End ends it; it answers its request once.
class Transfer {
 public:
  virtual ~Transfer() = default;
  // Ends it as soon as its pending I/O has stopped. Must not be called with a lock held.
  virtual void End(const absl::Status& why) = 0;
  // Ends it if its deadline has passed.
  virtual void Sweep(absl::Time now) = 0;
};

// One request being answered. If destroyed without an answer, it answers INTERNAL, so that no request stays unanswered.
class Call {
 public:
  // `charged`: the bytes charged to the quotas of the request's key, if any; the destructor returns them.
  Call(std::shared_ptr<ClientConnection> connection, std::shared_ptr<Session> session, proto::Request request,
       Operation operation, absl::Time deadline, std::optional<int64_t> charged);
  ~Call();

  DataContext* context() const;
  const std::shared_ptr<ClientConnection>& connection() const { return connection_; }
  const std::shared_ptr<Session>& session() const { return session_; }
  proto::Request& request() { return request_; }
  uint64_t id() const { return request_.id(); }
  const std::string& ns() const { return request_.ns(); }
  // The owner of its work in the lanes: a key in a namespace.
  std::string owner() const;
  absl::Time deadline() const { return deadline_; }
  void set_deadline(absl::Time deadline) { deadline_ = deadline; }
  engine::EncodingKey KeyOf(absl::string_view identity, uint32_t codec) const;

  // Whether the node must answer for the identity, by the request's placement epoch or its own.
  bool Owns(const Identity& identity) const;
  uint64_t epoch() const;  // the node's
  // Returns `status`, except that a miss (NOT_FOUND) of an identity the node does not own becomes MovedStatus.
  absl::Status UnlessMoved(const Identity& identity, absl::Status status) const;

  // Sends an answer that is not the last.
  void More(proto::Answer answer) const;
  // Sends the last answer. Only the first call of Answer and Refuse counts.
  void Answer(proto::Answer answer);
  void Refuse(const absl::Status& status);
  // Sends an answer given before, as the last.
  void Repeat(absl::string_view bytes);
  // Marks the last answer as already sent by More.
  void Answered();
  // A later PushCommit answers for this request.
  void SuppressAnswer() { ended_.store(true); }

 private:
  void Ended(absl::StatusCode code);

  const std::shared_ptr<ClientConnection> connection_;
  const std::shared_ptr<Session> session_;
  proto::Request request_;
  const Operation operation_;
  const absl::Time arrived_;
  const std::optional<int64_t> charged_;
  absl::Time deadline_;
  std::atomic<bool> ended_{false};
};

// Converts a status to an answer: RESOURCE_EXHAUSTED and UNAVAILABLE carry the time to retry after; MovedStatus becomes
// Moved.
proto::Answer Refusal(uint64_t id, const absl::Status& status);

class ClientConnection : public std::enable_shared_from_this<ClientConnection> {
 public:
  ClientConnection(DataContext* context, std::unique_ptr<ClientChannel> channel, absl::string_view carrier);
  ~ClientConnection();
  ClientConnection(const ClientConnection&) = delete;
  ClientConnection& operator=(const ClientConnection&) = delete;

  DataContext* context() const { return context_; }
  ClientChannel* channel() const { return channel_.get(); }
  const std::string& carrier() const { return carrier_; }
  int64_t number() const { return number_; }

  // The protocol of the client's latest request; answers use it too.
  uint32_t protocol() const { return protocol_.load(std::memory_order_relaxed); }
  void Speaks(uint32_t protocol) { protocol_.store(protocol, std::memory_order_relaxed); }
  // Sends an answer. A client that does not take its answers loses the connection.
  void Send(const proto::Answer& answer);
  void SendBytes(absl::string_view answer);
  // Shares memory for the client to map, unless it has it already. Call before anything that refers to that memory is
  // sent. Errors as ClientChannel::SendDescriptor.
  absl::Status SendMemory(const engine::TierMemory& memory);
  // If the client has that memory, tells it that nothing will lie in it any longer.
  void MemoryGone(uint32_t memory);
  void Close(absl::string_view why);

  std::shared_ptr<Session> session() const;
  // Sets the session. The connection, its transfers and leases stay charged to the first session's key.
  // RESOURCE_EXHAUSTED: that key has its share of connections. UNAVAILABLE: closed.
  absl::Status Identify(std::shared_ptr<Session> session);
  void Heard();
  absl::Time heard() const;
  absl::Time opened() const { return opened_; }

  // Counts pending requests. Returns false at the connection's limit.
  bool AddRequest();
  void RemoveRequest() { requests_.fetch_sub(1, std::memory_order_relaxed); }

  // Tracks requests queued in a lane, from Waits to Began, so that a Cancel reaches one that has no Transfer yet.
  void Waits(uint64_t id);
  // Whether the request was cancelled since Waits.
  bool Cancelled(uint64_t id) const;
  void CancelWaiting(uint64_t id);
  // As Cancelled; ends the tracking.
  bool Began(uint64_t id);

  // Transfers. RESOURCE_EXHAUSTED: the connection's or the node's limit. INVALID_ARGUMENT: the id is in use.
  // UNAVAILABLE: closed.
  enum class Kind { kPull, kPush };
  absl::Status AddTransfer(Kind kind, uint64_t id, std::shared_ptr<Transfer> transfer);
  void RemoveTransfer(Kind kind, uint64_t id);
  std::shared_ptr<Transfer> FindTransfer(Kind kind, uint64_t id) const;
  // Allocates ids for the receives of a push.
  uint64_t TakePayloadIds(int64_t count) { return next_payload_id_.fetch_add(static_cast<uint64_t>(count)); }

  // Leases of a local connection. Errors as AddTransfer.
  absl::StatusOr<uint64_t> AddLease(std::shared_ptr<engine::EncodingLease> lease);
  void RemoveLease(uint64_t lease);

  // Called by the carrier when the connection is gone.
  void OnClosed(const absl::Status& why);
  // Ends transfers whose deadline has passed.
  void Sweep(absl::Time now);

 private:
  using Transfers = std::map<uint64_t, std::shared_ptr<Transfer>>;
  std::vector<std::shared_ptr<Transfer>> AllTransfers() const;

  DataContext* const context_;
  std::unique_ptr<ClientChannel> channel_;  // until the destructor
  const std::string carrier_;
  const int64_t number_;
  const absl::Time opened_;
  std::atomic<int64_t> heard_;  // nanoseconds since 1970
  std::atomic<int> requests_{0};
  std::atomic<uint32_t> protocol_{kProtocols.max};
  std::atomic<uint64_t> next_payload_id_{1};

  mutable Mutex mutex_;
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Session> holder_ ABSL_GUARDED_BY(mutex_);   // the first one; quotas are charged to its grant
  std::map<uint64_t, bool> waiting_ ABSL_GUARDED_BY(mutex_);  // request -> whether it was cancelled
  Transfers pulls_ ABSL_GUARDED_BY(mutex_), pushes_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::shared_ptr<engine::EncodingLease>> leases_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_lease_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;

  absl::Time session_ended_ = absl::InfiniteFuture();  // used only by Sweep

  Mutex memory_mutex_;  // also orders SharedMemory before messages that refer to it
  std::set<uint32_t> memories_sent_ ABSL_GUARDED_BY(memory_mutex_);
};

// All connections of a node.
class ClientConnections {
 public:
  // Adds a new connection. If more than `max_unidentified` connections are unidentified, returns the one that has been
  // silent longest, for the caller to close; otherwise null.
  std::shared_ptr<ClientConnection> Add(const std::shared_ptr<ClientConnection>& connection, int max_unidentified);
  void Identified(const ClientConnection& connection);
  void Closed(const ClientConnection& connection);
  void Gone();  // one that was constructed is destroyed
  void Constructed();
  std::vector<std::shared_ptr<ClientConnection>> All() const;
  int64_t open() const { return open_.load(std::memory_order_relaxed); }
  int64_t NextNumber() { return ++numbers_; }
  // Waits until all connections and their channels are destroyed. Returns false at the deadline.
  bool WaitGone(absl::Time deadline);

 private:
  std::atomic<int64_t> open_{0}, numbers_{0};
  mutable Mutex mutex_;
  CondVar gone_;
  std::vector<std::weak_ptr<ClientConnection>> connections_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, std::weak_ptr<ClientConnection>> unidentified_
      ABSL_GUARDED_BY(mutex_);  // by number: in order of arrival
  int64_t alive_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_CLIENT_CONNECTION_H_
