// Carries the frames and payloads of one connection, below the protocol (session.h). Implemented by each carrier: UCX,
// gRPC (a byte stream: a payload is its frame followed by the bytes), Unix sockets (no payloads, but descriptors), and
// by tests.
//
// Thread-safety: only the transport's progress thread, in both directions. No method calls back before it returns.
#ifndef KVLINK_TRANSPORT_WIRE_H_
#define KVLINK_TRANSPORT_WIRE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "transport/transport.h"

namespace kvlink::transport {

class Session;

class Wire {
 public:
  virtual ~Wire() = default;

  // Sets where incoming frames and payloads go. Called once, first.
  virtual void Attach(std::weak_ptr<Session> session) = 0;
  // Frames arrive whole and in order. `taken` is called once, when the network has taken the frame or the wire is
  // closed.
  virtual void SendFrame(std::string frame, std::function<void()> taken) = 0;
  // Sends `frame` (kPayload), which arrives together with an offer of the bytes; not ordered with respect to other
  // frames. `done` is called once, when the source is no longer read: OK, CANCELLED (the peer did not want it) or
  // UNAVAILABLE.
  virtual void SendPayload(std::string frame, const Slice& from, std::function<void(const absl::Status&)> done) = 0;
  // Ends the connection; with `flush`, sends the queued frames first, however long that takes. Pending operations
  // complete, then `closed` is called, and the connection touches no memory after that. A second call, without `flush`,
  // hurries the first; its `closed` replaces the first one's.
  virtual void Close(bool flush, std::function<void()> closed) = 0;
  // While false, the peer is held back if the carrier can do that; data that has already arrived may still be
  // delivered.
  virtual void SetReading(bool reading) {}
  // Whether this wire can send from, and receive into, the buffer.
  virtual bool Owns(const RegisteredBuffer& buffer) const = 0;
  virtual std::string peer() const = 0;
};

// A payload offered by the peer. Valid only within Session::OnPayload; dropped if not received there.
class Offer {
 public:
  virtual ~Offer() = default;
  virtual int64_t bytes() const = 0;
  // `done` is called once, when the memory is no longer written: OK (all bytes have arrived) or UNAVAILABLE.
  virtual void Receive(const Slice& into, std::function<void(const absl::Status&)> done) = 0;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_WIRE_H_
