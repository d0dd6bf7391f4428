// Moves bytes between processes: small messages, in order, and large payloads, directly into memory that the receiver
// has posted for them.
//
//   receiver   PostReceive(id, slice)   reserves the memory and allows the sender payload `id` of up to that size
//   sender     Send(id, slice)          waits for that, then moves the bytes; we copy on neither side
//
// Posted, unfilled memory is the sender's credit in bytes: a receiver holds a sender back by posting less. The two
// sides agree on ids in their messages: a request names the receives of its answer, one per layer; a push is answered
// with the ids to send to. Sends on a connection start in the order of the calls, as far as credit allows, so layers
// arrive in order or nearly so; each completes independently. Messages and payloads may overtake each other.
//
// Exactly once: each PostReceive and each Send calls its `done` exactly once, never within the call itself, with
//   OK                  receive: the bytes have arrived. Send: the source is no longer read (only the receiver knows
//                       whether the payload arrived)
//   DEADLINE_EXCEEDED   at the deadline, whatever the peer does; a Send also after TransportOptions::receive_within
//   CANCELLED           by CancelReceive or CancelSend; a Send also when the receiver withdrew the receive
//   UNAVAILABLE         the connection was closed before or during the operation
//   INVALID_ARGUMENT    the slice is empty, outside its buffer or longer than the peer's receive, the buffer belongs to
//                       another transport, or the id is in use
//   RESOURCE_EXHAUSTED  kMaxOperations receives or sends are open on the connection, or too many calls are queued for
//                       the transport's thread
//
// Quarantine: `done` with an error does not mean that the bytes are no longer touched; the reference in Slice::buffer
// tells. The transport drops it once the network can no longer reach the bytes: at once if the transfer had not begun,
// otherwise when it ends. If it does not end within the heartbeat limit, the connection is closed to end it.
//
// Thread-safety: all methods of all classes. Only Connect and destructors block. Callbacks come from one thread of the
// transport, never two at once for a connection. They must return soon (well under a millisecond) and must not wait for
// the transport or destroy it; they may call every method except Connect, and may drop the last reference to a buffer.
// Ownership: connections and listeners must be released before their transport; buffers may outlive it.
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
inline constexpr int kMaxOperations = 4096;  // open receives, and separately open sends, per connection
// Messages of a connection not yet taken by the network; each counts its bytes plus 256.
inline constexpr int64_t kMaxQueuedMessageBytes = int64_t{16} << 20;

enum class MemoryKind : uint8_t { kHost, kCuda };

struct MemoryPlace {
  MemoryKind kind = MemoryKind::kHost;
  int device = 0;  // index among devices of its kind; 0 for host memory
};

// Memory that a transport can send from and receive into. Resident from the start and registered once.
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

// A range of a buffer. The transport keeps a copy of `buffer` for as long as the bytes may be touched. To learn when
// that ends, a pool or a lease makes `buffer` point to the buffer but own an object of its own (std::shared_ptr's
// aliasing constructor).
struct Slice {
  std::shared_ptr<RegisteredBuffer> buffer;
  int64_t offset = 0;
  int64_t length = 0;
  std::byte* data() const { return buffer->data() + offset; }
};

// On OK, `bytes` of payload are at the start of the receive; otherwise 0.
using Received = std::function<void(const absl::Status& status, int64_t bytes)>;
using Sent = std::function<void(const absl::Status& status)>;

class Connection {
 public:
  virtual ~Connection() = default;  // calls Close()

  // Copies the message, which is delivered in order unless the connection closes. INVALID_ARGUMENT: empty, or longer
  // than kMaxMessageBytes. RESOURCE_EXHAUSTED: kMaxQueuedMessageBytes are waiting; nothing was sent. UNAVAILABLE:
  // closed.
  virtual absl::Status SendMessage(absl::string_view message) = 0;

  // The receiver chooses `id`; each may be used once per connection.
  virtual void PostReceive(uint64_t id, Slice into, absl::Time deadline, Received done) = 0;
  // `id` is the peer's receive, which must be at least as long as `from`.
  virtual void Send(uint64_t id, Slice from, absl::Time deadline, Sent done) = 0;
  // Completes the operation with CANCELLED; does nothing if it is not open.
  virtual void CancelReceive(uint64_t id) = 0;
  virtual void CancelSend(uint64_t id) = 0;

  // Completes all open operations with UNAVAILABLE. Messages already queued are still sent if the peer takes them
  // within the heartbeat limit.
  virtual void Close() = 0;

  // The peer's address, e.g. "127.0.0.1:34567", for messages and logs.
  virtual std::string peer() const = 0;
};

// Receives the events of a connection. The transport keeps it until OnClosed has returned.
class ConnectionEvents {
 public:
  virtual ~ConnectionEvents() = default;
  // `message` is valid only during the call.
  virtual void OnMessage(absl::string_view message) = 0;
  // Called once, last, when every operation has completed. OK: closed on this side. UNAVAILABLE: closed by the peer,
  // the network or the heartbeat. INVALID_ARGUMENT: closed on this side because the peer violated the protocol.
  virtual void OnClosed(const absl::Status& why) = 0;
};

// Takes over an accepted connection and returns its events. Null refuses it.
using Accept = std::function<std::shared_ptr<ConnectionEvents>(std::shared_ptr<Connection> connection)>;

// Accepts connections until it is destroyed; accepted ones stay open.
class Listener {
 public:
  virtual ~Listener() = default;
  // The "host:port" to connect to, with the chosen port.
  virtual std::string address() const = 0;
};

struct TransportStats {
  int64_t connections = 0;
  int64_t messages_sent = 0, messages_received = 0;
  int64_t payloads_sent = 0, payload_bytes_sent = 0;
  int64_t payloads_received = 0, payload_bytes_received = 0;
  int64_t payloads_late = 0;      // arrived after their receive was given up; dropped
  int64_t quarantined_bytes = 0;  // now
  int64_t registered_bytes = 0;   // now
  int64_t wakeups = 0;            // times progress threads were woken
  // Closed connections by reason: "local", "peer", "heartbeat", "quarantine", "network", and the violations of hostile
  // peers ("payload-unreserved", "payload-oversized", "frame-malformed", ...). "stranger": connected over UCX without
  // speaking it, or over gRPC without naming a caller the server knows.
  std::map<std::string, int64_t> closes;
};

// Limits the message bytes not yet taken by the network, summed over many connections and transports. Thread-safety:
// all methods.
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
  // A peer that has payloads agreed and stays silent for this long is considered dead. Idle connections are probed a
  // tenth as often, and a peer whose messages are not being read (pause_at_bytes) has ten times as long. Also how long
  // a transfer may outlive its deadline before the connection is closed.
  absl::Duration heartbeat = absl::Seconds(2);
  // Payload bytes of a connection in the network at a time; later ones wait. At least two payloads are always allowed.
  // Concurrent payloads share the network, so a window larger than needed to keep it busy only delays the first of
  // them.
  int64_t window_bytes = int64_t{4} << 20;
  int max_connections = 4096;  // accepted ones; further connections are refused
  // Accepted connections that have not said hello. When the limit is exceeded, the one silent longest is closed.
  int max_handshakes = 256;
  // While this many bytes of messages wait for the peer to take them, the peer's own messages are not read, if the
  // carrier can hold them back (not UCX). 0: never. For servers whose clients may ask much and read little; if a client
  // set it too, the two could wait for each other.
  int64_t pause_at_bytes = 0;
  // May be null. While it is exceeded, a connection with pause_at_bytes waiting gets RESOURCE_EXHAUSTED.
  std::shared_ptr<MessageBudget> budget;
  // A send whose receive the peer does not post within this time completes with DEADLINE_EXCEEDED.
  absl::Duration receive_within = absl::InfiniteDuration();
};

class Transport {
 public:
  virtual ~Transport() = default;

  // Maps and prefaults host memory, in huge pages if the kernel provides them. RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Allocate(int64_t bytes) = 0;
  // Registers existing memory; `owner` is released with the buffer. UNIMPLEMENTED: the transport cannot reach this kind
  // of memory; the caller must stage through host memory.
  virtual absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Register(std::byte* data, int64_t bytes,
                                                                     const MemoryPlace& place,
                                                                     std::shared_ptr<void> owner) = 0;

  // `address` is "host:port"; port 0 picks a free one. INVALID_ARGUMENT, UNAVAILABLE (in use, or not an address of this
  // host).
  virtual absl::StatusOr<std::unique_ptr<Listener>> Listen(absl::string_view address, Accept accept) = 0;
  // Blocks until the peer has accepted. Messages may arrive before it returns. INVALID_ARGUMENT, UNAVAILABLE (nothing
  // listens, refused, or another protocol), DEADLINE_EXCEEDED.
  virtual absl::StatusOr<std::shared_ptr<Connection>> Connect(absl::string_view address,
                                                              std::shared_ptr<ConnectionEvents> events,
                                                              absl::Time deadline) = 0;
  // Like Connect, but identifies the caller first, for servers that read nothing from unknown callers. `caller`: at
  // most 1 KiB; sent if the carrier has headers (gRPC), otherwise ignored. UNAUTHENTICATED: the server does not know
  // it.
  virtual absl::StatusOr<std::shared_ptr<Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                                std::shared_ptr<ConnectionEvents> events,
                                                                absl::Time deadline) {
    return Connect(address, std::move(events), deadline);
  }

  virtual TransportStats Stats() const = 0;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_TRANSPORT_H_
