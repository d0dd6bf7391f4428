// Carries the frames and payloads of one connection, below the protocol (session.h). Implemented by each carrier: UCX,
// gRPC (a byte stream: a payload is its frame followed by the bytes), Unix sockets (no payloads, but descriptors), and
// those of tests.
//
// Thread-safety: the progress thread of the transport alone, in both directions. No method calls back before it
// returns.
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

  // Where what arrives goes. Once, before everything else.
  virtual void Attach(std::weak_ptr<Session> session) = 0;
  // Frames arrive whole and in order. `taken` is called once, when the network has taken the frame or the wire is
  // closed.
  virtual void SendFrame(std::string frame, std::function<void()> taken) = 0;
  // `frame` (kPayload) arrives with an offer of the bytes; not ordered with others. `done` once, when the source is not
  // read any more: OK, CANCELLED (the peer did not want them), or UNAVAILABLE.
  virtual void SendPayload(std::string frame, const Slice& from, std::function<void(const absl::Status&)> done) = 0;
  // Ends the connection; where `flush`, frames on their way still go first, for as long as that takes. What is under
  // way completes, then `closed` is called, and nothing of this connection touches memory after it. A second call,
  // without `flush`, hurries the first; its `closed` takes the place of that one's.
  virtual void Close(bool flush, std::function<void()> closed) = 0;
  // While false, the peer is held back instead of heard, where the carrier can; what had come may still be told.
  virtual void SetReading(bool reading) {}
  // Whether a buffer can be sent from and arrived in.
  virtual bool Owns(const RegisteredBuffer& buffer) const = 0;
  virtual std::string peer() const = 0;
};

// A payload that the peer offers. To be used within Session::OnPayload; one that is not received is dropped.
class Offer {
 public:
  virtual ~Offer() = default;
  virtual int64_t bytes() const = 0;
  // `done` once, when the memory is not written any more: OK (all bytes are there) or UNAVAILABLE.
  virtual void Receive(const Slice& into, std::function<void(const absl::Status&)> done) = 0;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_WIRE_H_
