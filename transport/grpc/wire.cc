#include "transport/grpc/wire.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status.h"
#include "transport/frame.h"
#include "transport/host_memory.h"
#include "transport/session.h"

namespace kvlink::transport {
namespace {

constexpr size_t kPayloadFrameBytes = static_cast<size_t>(kFrameHeaderBytes) + 16;

}  // namespace

// Reads a message's bytes from its slices.
class GrpcWire::Reader {
 public:
  explicit Reader(const grpc::ByteBuffer& buffer) {
    if (!buffer.Dump(&slices_).ok()) slices_.clear();
    for (const grpc::Slice& slice : slices_) left_ += slice.size();
  }
  size_t left() const { return left_; }
  // Reads up to `bytes` bytes; returns how many. `into` may be null.
  size_t Read(char* into, size_t bytes) {
    bytes = std::min(bytes, left_);
    for (size_t rest = bytes; rest > 0;) {
      const grpc::Slice& slice = slices_[at_];
      const size_t some = std::min(rest, slice.size() - offset_);
      if (into != nullptr) {
        std::memcpy(into, slice.begin() + offset_, some);
        into += some;
      }
      rest -= some;
      offset_ += some;
      if (offset_ == slice.size()) {
        ++at_;
        offset_ = 0;
      }
    }
    left_ -= bytes;
    return bytes;
  }
  std::string ReadString(size_t most) {
    std::string bytes(std::min(most, left_), '\0');
    Read(bytes.data(), bytes.size());
    return bytes;
  }

 private:
  std::vector<grpc::Slice> slices_;
  size_t at_ = 0, offset_ = 0, left_ = 0;
};

class GrpcWire::StreamOffer : public Offer {
 public:
  StreamOffer(GrpcWire* wire, int64_t bytes) : wire_(wire), bytes_(bytes) {}
  int64_t bytes() const override { return bytes_; }
  void Receive(const Slice& into, std::function<void(const absl::Status&)> done) override {
    wire_->arriving_.into = into.data();
    wire_->arriving_.done = std::move(done);
    ++wire_->under_way_;
  }

 private:
  GrpcWire* const wire_;
  const int64_t bytes_;
};

GrpcWire::~GrpcWire() {
  if (stream_ == nullptr) return;
  stream_->set_events(nullptr);
  stream_->Close(false);
  if (channel_ != nullptr) channels_->Bury(std::move(channel_));
}

void GrpcWire::SendFrame(std::string frame, std::function<void()> taken) {
  stream_->SendFrame(std::move(frame), std::move(taken));
}

void GrpcWire::SendPayload(std::string frame, const Slice& from, std::function<void(const absl::Status&)> done) {
  ++under_way_;
  auto ended = [this, keep = session_.lock(), done = std::move(done)](bool sent) {
    done(sent ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("the connection to ", peer_, " is closed")));
    --under_way_;
    CheckClosed();
  };
  stream_->SendPayload(std::move(frame), std::make_shared<PayloadSource>(stream_->mailbox(), from, std::move(ended)));
}

void GrpcWire::Close(bool flush, std::function<void()> closed) {
  closed_ = std::move(closed);
  closing_ = true;
  PayloadDone(absl::UnavailableError(absl::StrCat("the connection to ", peer_, " is closed")));
  stream_->Close(flush);
  thread_->Defer([this, keep = session_.lock()] { CheckClosed(); });
}

bool GrpcWire::Owns(const RegisteredBuffer& buffer) const {
  const auto* const ours = dynamic_cast<const HostBuffer*>(&buffer);
  return ours != nullptr && ours->counters() == counters_;
}

void GrpcWire::OnBuffer(const grpc::ByteBuffer& buffer) {
  const auto session = session_.lock();
  if (session == nullptr || closing_) return;
  Reader reader(buffer);
  char kind = -1;
  reader.Read(&kind, 1);
  switch (static_cast<StreamMessage>(kind)) {
    case StreamMessage::kFrame:
      // One byte more than the longest frame, so that a longer one is recognised as invalid.
      return session->OnFrame(reader.ReadString(static_cast<size_t>(kFrameHeaderBytes + kMaxMessageBytes + 1)));
    case StreamMessage::kPayload:
      return OnPayload(session.get(), &reader);
    case StreamMessage::kPiece:
      return OnPiece(session.get(), &reader);
  }
  Violation(session.get(), "frame-malformed", "a message that is no frame and no payload");
}

void GrpcWire::OnPayload(Session* session, Reader* reader) {
  if (arriving_.left > 0) return Violation(session, "payload-malformed", "a payload within another");
  const std::string bytes = reader->ReadString(kPayloadFrameBytes);
  const auto frame = ParseFrame(bytes);
  int64_t said = 0;
  if (frame.ok() && frame->kind == FrameKind::kPayload) {
    const uint64_t grant = ParseGrants(frame->body)[0].bytes;
    if (grant <= static_cast<uint64_t>(kMaxPayloadBytes)) said = static_cast<int64_t>(grant);
  }
  StreamOffer offer(this, said);
  session->OnPayload(bytes, &offer);
  if (closing_) return;
  arriving_.left = said;
  OnPiece(session, reader);
}

void GrpcWire::OnPiece(Session* session, Reader* reader) {
  const int64_t bytes = static_cast<int64_t>(reader->left());
  if (bytes == 0 || bytes > arriving_.left) {
    return Violation(session, "payload-malformed", "a piece of a payload that is empty or longer than the rest of it");
  }
  reader->Read(reinterpret_cast<char*>(arriving_.into), static_cast<size_t>(bytes));
  if (arriving_.into != nullptr) arriving_.into += bytes;
  arriving_.left -= bytes;
  session->OnProgress();
  if (arriving_.left == 0) PayloadDone(absl::OkStatus());
}

void GrpcWire::Violation(Session* session, absl::string_view reason, absl::string_view what) {
  session->Shut(absl::InvalidArgumentError(absl::StrCat(peer_, " broke the protocol: ", what)), reason, false);
}

// Ends the payload that is arriving, if it has a receive.
void GrpcWire::PayloadDone(const absl::Status& status) {
  const auto done = std::exchange(arriving_, {}).done;
  if (done == nullptr) return;
  thread_->Defer([this, keep = session_.lock(), done, status] {
    done(status);
    --under_way_;
    CheckClosed();
  });
}

void GrpcWire::OnEnd(const absl::Status& why) {
  if (const auto session = session_.lock()) session->OnDisconnected(Annotate(why, peer_));
}

void GrpcWire::OnOver() {
  const auto keep = session_.lock();
  over_ = true;
  channel_ = nullptr;
  CheckClosed();
}

void GrpcWire::CheckClosed() {
  if (!over_ || under_way_ > 0 || closed_ == nullptr) return;
  std::exchange(closed_, nullptr)();
}

}  // namespace kvlink::transport
