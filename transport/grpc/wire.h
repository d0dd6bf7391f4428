// A connection over a gRPC stream. Thread-safety and lifetime as transport/wire.h.
#ifndef KVLINK_TRANSPORT_GRPC_WIRE_H_
#define KVLINK_TRANSPORT_GRPC_WIRE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "transport/counters.h"
#include "transport/grpc/calls.h"
#include "transport/grpc/stream.h"
#include "transport/progress.h"
#include "transport/wire.h"

namespace kvlink::transport {

class GrpcWire : public Wire, public StreamEvents {
 public:
  // Call Bind next. `counters`: those of HostBuffer.
  GrpcWire(ProgressThread* thread, const Counters* counters, std::string peer)
      : thread_(thread), counters_(counters), peer_(std::move(peer)) {}
  ~GrpcWire() override;
  void Bind(std::shared_ptr<Stream> stream) { stream_ = std::move(stream); }
  // Client only: keeps the channel, with the data gRPC still has to send, until the call is over.
  void Keep(std::shared_ptr<grpc::Channel> channel, std::shared_ptr<Channels> channels) {
    channel_ = std::move(channel);
    channels_ = std::move(channels);
  }

  void Attach(std::weak_ptr<Session> session) override { session_ = std::move(session); }
  void SendFrame(std::string frame, std::function<void()> taken) override;
  void SendPayload(std::string frame, const Slice& from, std::function<void(const absl::Status&)> done) override;
  void Close(bool flush, std::function<void()> closed) override;
  void SetReading(bool reading) override { stream_->SetReading(reading); }
  bool Owns(const RegisteredBuffer& buffer) const override;
  std::string peer() const override { return peer_; }

  void OnBuffer(const grpc::ByteBuffer& buffer) override;
  void OnEnd(const absl::Status& why) override;
  void OnOver() override;

 private:
  class StreamOffer;
  class Reader;
  // The payload being received.
  struct Arriving {
    int64_t left = 0;
    std::byte* into = nullptr;  // null: dropped
    std::function<void(const absl::Status&)> done;
  };

  void OnPayload(Session* session, Reader* reader);
  void OnPiece(Session* session, Reader* reader);
  void Violation(Session* session, absl::string_view reason, absl::string_view what);
  void PayloadDone(const absl::Status& status);
  void CheckClosed();

  ProgressThread* const thread_;
  const Counters* const counters_;
  const std::string peer_;
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<grpc::Channel> channel_;
  std::shared_ptr<Channels> channels_;
  std::weak_ptr<Session> session_;
  Arriving arriving_;
  int64_t under_way_ = 0;  // payloads gRPC may still read, and completions in flight
  bool over_ = false, closing_ = false;
  std::function<void()> closed_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_WIRE_H_
