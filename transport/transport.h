// Moving bytes between processes: small messages in order, and large payloads straight into memory that the receiver
// posted for them.
//
//   receiver   PostReceive(id, slice)   reserves the memory and allows the sender payload `id` of up to that size
//   sender     Send(id, slice)          waits for that, then the bytes move; no copy of ours on either side
//
// Memory posted and not yet filled is the sender's byte credit: a receiver holds a sender back by posting less. The
// sides agree on ids in messages of their own: a request names the receives of its answer, as many as there are layers;
// a push is answered with ids to send to. Sends on a connection start in the order of the calls, as far as credit goes,
// so layers arrive in their order or nearly so, and each completes on its own. Messages and payloads overtake each
// other.
//
// Exactly once: each PostReceive and each Send calls its `done` once, never within the call itself. The status is
//   OK                  receive: the bytes are there. Send: the source is not read any more (whether the payload
//                       arrived is the receiver's to tell)
//   DEADLINE_EXCEEDED   at the deadline, whatever the peer does; a Send also after TransportOptions::receive_within
//   CANCELLED           by CancelReceive or CancelSend; a Send also when the receiver took the receive back
//   UNAVAILABLE         the connection is closed, or closed before the end
//   INVALID_ARGUMENT    the slice is empty, out of its buffer or longer than the peer's receive, its buffer is another
//                       transport's, or the id is in use
//   RESOURCE_EXHAUSTED  kMaxOperations receives or sends are open on the connection, or more calls wait for the
//                       transport's thread than it remembers
//
// Quarantine: `done` with an error does not mean that nobody touches the bytes any more; Slice::buffer says so. The
// transport drops that reference when the bytes are out of reach of the network: at once where the transfer had not
// begun, else when it ends; and where it does not end within the heartbeat limit, the connection is closed to end it.
//
// Thread-safety: all methods of all classes. Only Connect and destructors wait. Callbacks come from one thread of the
// transport, never two of a connection at once; they return soon (well under a millisecond), may call all methods but
// Connect, and must not wait for the transport or destroy it. The last reference to a buffer may be dropped there.
// Ownership: connections and listeners are released before their transport; buffers may outlive it.
#ifndef KVLINK_TRANSPORT_TRANSPORT_H_
#define KVLINK_TRANSPORT_TRANSPORT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvlink::transport {

inline constexpr int64_t kMaxMessageBytes = int64_t{256} << 10;
inline constexpr int64_t kMaxPayloadBytes = int64_t{1} << 30;
inline constexpr int kMaxOperations = 4096;  // open receives, and as many open sends, of one connection
// Messages of a connection that the network has not taken yet, with 256 bytes for each.
inline constexpr int64_t kMaxQueuedMessageBytes = int64_t{16} << 20;

enum class MemoryKind : uint8_t { kHost, kCuda };

struct MemoryPlace {
  MemoryKind kind = MemoryKind::kHost;
  int device = 0;  // which one of its kind; 0 for host memory
};

// Memory that a transport can send from and are received in. Resident from the start and registered once.
class RegisteredBuffer {
 public:
  virtual ~RegisteredBuffer() = default;
  RegisteredBuffer(const RegisteredBuffer&) = delete;
  RegisteredBuffer& operator=(const RegisteredBuffer&) = delete;
  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  const MemoryPlace& place() const { return place_; }

 protected:
  RegisteredBuffer(std::byte* data, int64_t size, const MemoryPlace& place) : data_(data), size_(size), place_(place) {}

 private:
  std::byte* const data_;
  const int64_t size_;
  const MemoryPlace place_;
};

// A range of a buffer. The transport keeps a copy of `buffer` for as long as the bytes may be touched. A pool or a
// lease that wants to know when that ends points `buffer` at the buffer and owns something of its own with it
// (std::shared_ptr's aliasing constructor).
struct Slice {
  std::shared_ptr<RegisteredBuffer> buffer;
  int64_t offset = 0;
  int64_t length = 0;
  std::byte* data() const { return buffer->data() + offset; }
};

// `bytes` of the payload are at the start of the receive; 0 unless OK.
using Received = std::function<void(const absl::Status& status, int64_t bytes)>;
using Sent = std::function<void(const absl::Status& status)>;

class Connection {
 public:
  virtual ~Connection() = default;  // as Close()

  // Delivered in order, or the connection closes. Copied. INVALID_ARGUMENT: longer than kMaxMessageBytes, or empty.
  // RESOURCE_EXHAUSTED: kMaxQueuedMessageBytes are waiting; nothing was sent. UNAVAILABLE: closed.
  virtual absl::Status SendMessage(absl::string_view message) = 0;

  // `id` is the receiver's choice: each one once on a connection.
  virtual void PostReceive(uint64_t id, Slice into, absl::Time deadline, Received done) = 0;
  // `id` is that of the peer's receive, which is at least as long as `from`.
  virtual void Send(uint64_t id, Slice from, absl::Time deadline, Sent done) = 0;
  // Completes the operation with CANCELLED; nothing happens if it is not open (any more).
  virtual void CancelReceive(uint64_t id) = 0;
  virtual void CancelSend(uint64_t id) = 0;

  // Completes everything that is open with UNAVAILABLE. Messages sent before still go out where the peer takes them
  // within the heartbeat limit.
  virtual void Close() = 0;

  // "127.0.0.1:34567", for messages and logs.
  virtual std::string peer() const = 0;
};

// Events of a connection, for its user. Kept by the transport until OnClosed has returned.
class ConnectionEvents {
 public:
  virtual ~ConnectionEvents() = default;
  // `message` is valid during the call.
  virtual void OnMessage(absl::string_view message) = 0;
  // Once and last, when every operation has completed. OK: closed here. UNAVAILABLE: by the peer, the network or the
  // heartbeat. INVALID_ARGUMENT: closed here because the peer broke the protocol.
  virtual void OnClosed(const absl::Status& why) = 0;
};

// Takes over a new connection. Null refuses it.
using Accept = std::function<std::shared_ptr<ConnectionEvents>(std::shared_ptr<Connection> connection)>;

// Accepts connections until it is destroyed; accepted ones stay.
class Listener {
 public:
  virtual ~Listener() = default;
  // "host:port" to connect to, with the port that was chosen.
  virtual std::string address() const = 0;
};

struct TransportStats {
  int64_t connections = 0;
  int64_t messages_sent = 0, messages_received = 0;
  int64_t payloads_sent = 0, payload_bytes_sent = 0;
  int64_t payloads_received = 0, payload_bytes_received = 0;
  int64_t payloads_late = 0;      // came after their receive was given up; dropped
  int64_t quarantined_bytes = 0;  // now
  int64_t registered_bytes = 0;   // now
  int64_t wakeups = 0;            // of progress threads, from waiting
  // Why connections closed: "local", "peer", "heartbeat", "quarantine", "network", and what hostile peers did
  // ("payload-unreserved", "payload-oversized", "frame-malformed", ...). "stranger": came in over UCX and did not speak
  // it, or over gRPC and named no caller that the server knows.
  std::map<std::string, int64_t> closes;
};

// Limits the bytes of messages of many connections, of several transports, that the network has not taken yet.
// Thread-safety: all methods.
class MessageBudget {
 public:
  explicit MessageBudget(int64_t max_bytes) : max_bytes_(max_bytes) {}
  void Take(int64_t bytes) { taken_.fetch_add(bytes, std::memory_order_relaxed); }
  void Return(int64_t bytes) { taken_.fetch_sub(bytes, std::memory_order_relaxed); }
  bool exceeded() const { return taken() > max_bytes_; }
  int64_t taken() const { return taken_.load(std::memory_order_relaxed); }

 private:
  const int64_t max_bytes_;
  std::atomic<int64_t> taken_{0};
};

struct TransportOptions {
  // A peer with which payloads are agreed and which is silent for so long is taken for dead. Idle connections are asked
  // ten times more rarely, and a peer that is not read from (pause_at_bytes) has ten times as long. Also how long a
  // transfer may outlive its deadline before the connection is closed.
  absl::Duration heartbeat = absl::Seconds(2);
  // Payload bytes of a connection in the network at a time; later ones wait for their turn. At least two payloads are.
  // Those that are share the network, so more than keeps it busy only makes the first of them late.
  int64_t window_bytes = int64_t{4} << 20;
  int max_connections = 4096;  // accepted ones; more are refused
  // Accepted ones that have not said hello. When one more comes, the one that has been silent longest goes.
  int max_handshakes = 256;
  // For a server whose clients may ask much and read little; a client that had it too could wait for a server that
  // waits for it. 0: never. While so many bytes of messages wait to be taken by the peer, what it says is not read,
  // where the carrier can hold it back (not UCX).
  int64_t pause_at_bytes = 0;
  // May be null. While it is exceeded, a connection with pause_at_bytes waiting gets RESOURCE_EXHAUSTED.
  std::shared_ptr<MessageBudget> budget;
  // A send for which the peer does not make room within this is DEADLINE_EXCEEDED.
  absl::Duration receive_within = absl::InfiniteDuration();
};

class Transport {
 public:
  virtual ~Transport() = default;

  // Maps and prefaults host memory, in huge pages where the kernel gives them. RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Allocate(int64_t bytes) = 0;
  // Registers memory that exists; `owner` is released with the buffer. UNIMPLEMENTED: the transport cannot reach that
  // kind of memory, and the caller stages through host memory.
  virtual absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Register(std::byte* data, int64_t bytes,
                                                                     const MemoryPlace& place,
                                                                     std::shared_ptr<void> owner) = 0;

  // `address` is "host:port"; port 0 chooses one. INVALID_ARGUMENT, UNAVAILABLE (in use, not ours).
  virtual absl::StatusOr<std::unique_ptr<Listener>> Listen(absl::string_view address, Accept accept) = 0;
  // Waits until the peer has accepted. Messages may arrive before this returns. INVALID_ARGUMENT, UNAVAILABLE (nobody
  // listens, refused, or another protocol), DEADLINE_EXCEEDED.
  virtual absl::StatusOr<std::shared_ptr<Connection>> Connect(absl::string_view address,
                                                              std::shared_ptr<ConnectionEvents> events,
                                                              absl::Time deadline) = 0;
  // As Connect, and says who calls before anything else, for servers that read nothing from callers they do not know.
  // `caller`: at most 1 KiB, sent where the carrier has headers (gRPC) and left out elsewhere. UNAUTHENTICATED: the
  // server does not know it.
  virtual absl::StatusOr<std::shared_ptr<Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                                std::shared_ptr<ConnectionEvents> events,
                                                                absl::Time deadline) {
    return Connect(address, std::move(events), deadline);
  }

  virtual TransportStats Stats() const = 0;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_TRANSPORT_H_
