// A connection over a Unix socket: one frame per packet. Thread-safety and lifetime as transport/wire.h.
#ifndef KVLINK_TRANSPORT_LOCAL_WIRE_H_
#define KVLINK_TRANSPORT_LOCAL_WIRE_H_

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/descriptor.h"
#include "transport/local/local.h"
#include "transport/local/poller.h"
#include "transport/progress.h"
#include "transport/wire.h"

namespace kvlink::transport {

// State that a wire shares with its connection's handle and events.
struct LocalShared {
  PeerCredentials credentials;
  std::string peer;
  std::atomic<int> queued_descriptors{0};
  std::weak_ptr<Session> session;  // set before the connection is handed out

  // Progress thread only.
  std::vector<Descriptor> arrived;  // attached to the frame being handled
  bool takes_descriptors = false;
};

class LocalWire : public Wire, public Watcher {
 public:
  // `socket` is connected. UNAVAILABLE: the system does not report the peer's credentials, or accepts no packets as
  // large as frames.
  static absl::StatusOr<std::unique_ptr<LocalWire>> Open(Poller* poller, ProgressThread* thread, Descriptor socket,
                                                         const std::string& path);
  ~LocalWire() override;

  void Attach(std::weak_ptr<Session> session) override;
  void SendFrame(std::string frame, std::function<void()> taken) override;
  void SendPayload(std::string frame, const Slice& from, std::function<void(const absl::Status&)> done) override;
  void Close(bool flush, std::function<void()> closed) override;
  void SetReading(bool reading) override;
  bool Owns(const RegisteredBuffer&) const override { return false; }
  std::string peer() const override { return shared_->peer; }
  void Ready(uint32_t events) override;

  // Attaches descriptors to the next frame.
  void Enclose(std::vector<Descriptor> descriptors) { enclosed_ = std::move(descriptors); }
  // Drops them if the next frame is not sent after all.
  void DropEnclosed() { CountDown(&enclosed_); }
  const std::shared_ptr<LocalShared>& shared() const { return shared_; }

 private:
  struct Outgoing {
    std::string frame;
    std::vector<Descriptor> descriptors;
    std::function<void()> taken;
  };
  LocalWire(Poller* poller, ProgressThread* thread, Descriptor socket, std::shared_ptr<LocalShared> shared)
      : poller_(poller), thread_(thread), shared_(std::move(shared)), socket_(std::move(socket)) {}

  // Reads at most `packets` packets. Returns false if no more will come.
  bool Read(int packets);
  void Write();
  // Sends one frame. Returns false if the system cannot take it now.
  bool Give(Outgoing* outgoing);
  void Broken(int error);
  void Disconnect(int error);
  void Taken(Outgoing* outgoing);
  void CountDown(std::vector<Descriptor>* descriptors);
  void SetInterest();
  void Shut();

  Poller* const poller_;
  ProgressThread* const thread_;
  const std::shared_ptr<LocalShared> shared_;
  Descriptor socket_;
  uint64_t watch_ = 0;
  std::vector<Descriptor> enclosed_;
  std::deque<Outgoing> queue_;
  bool broken_ = false;  // nothing can be sent any more
  bool reset_ = false;   // the peer closed without reading everything
  bool closing_ = false, shut_ = false, reading_ = true;
  std::function<void()> closed_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_LOCAL_WIRE_H_
