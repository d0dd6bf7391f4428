#include "tests/support/transport/loopback/loopback.h"

#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "base/status.h"
#include "transport/address.h"
#include "transport/host_memory.h"
#include "transport/session_host.h"

namespace kvlink::transport {
namespace {

// One side of a connection, as reached by the other. Open from the start; work for a closed side is dropped.
class End : public std::enable_shared_from_this<End> {
 public:
  explicit End(ProgressThread* thread) : thread_(thread) {}

  void Bind(std::weak_ptr<Session> session) {
    MutexLock lock(&mutex_);
    session_ = std::move(session);
  }
  void Close() {
    MutexLock lock(&mutex_);
    closed_ = true;
  }
  // Runs `work` with this side's session on its thread.
  void Deliver(std::function<void(Session*)> work) {
    MutexLock lock(&mutex_);
    if (closed_) return;
    thread_->Post([self = shared_from_this(), work = std::move(work)] {
      if (const auto session = self->session()) work(session.get());
    });
  }
  // Runs `work` on this side's thread, even after Close. REQUIRES: the side waits for it before its thread ends.
  void Return(std::function<void()> work) { thread_->Post(std::move(work)); }

 private:
  std::shared_ptr<Session> session() {
    MutexLock lock(&mutex_);
    return session_.lock();
  }
  ProgressThread* const thread_;
  Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::weak_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
};

class LoopbackWire : public Wire {
 public:
  LoopbackWire(std::shared_ptr<End> near, std::shared_ptr<End> far, ProgressThread* thread, std::string peer)
      : near_(std::move(near)), far_(std::move(far)), thread_(thread), peer_(std::move(peer)) {}

  void Attach(std::weak_ptr<Session> session) override {
    session_ = session;
    near_->Bind(std::move(session));
  }
  void SendFrame(std::string frame, std::function<void()> taken) override {
    Carry([frame = std::move(frame)](Session* session, Flight*) { session->OnFrame(frame); },
          [taken = std::move(taken)](const absl::Status&) { taken(); });
  }
  void SendPayload(std::string frame, const Slice& from, std::function<void(const absl::Status&)> done) override {
    Carry(
        [frame = std::move(frame), from](Session* session, Flight* flight) {
          Copy copy(session->thread(), from);
          session->OnPayload(frame, &copy);
          flight->status = copy.received ? absl::OkStatus() : absl::CancelledError("the receiver dropped the payload");
        },
        std::move(done));
  }
  void Close(bool flush, std::function<void()> closed) override {
    closed_ = std::move(closed);
    if (std::exchange(closing_, true)) return;
    near_->Close();
    far_->Deliver([peer = peer_](Session* session) {
      session->OnDisconnected(absl::UnavailableError(absl::StrCat(session->peer(), " closed the connection")));
    });
    thread_->Defer([this, keep = session_.lock()] { Received(0); });
  }
  bool Owns(const RegisteredBuffer& buffer) const override {
    return dynamic_cast<const HostBuffer*>(&buffer) != nullptr;
  }
  std::string peer() const override { return peer_; }

 private:
  // In transit to the other side. Returns to this side once handled or dropped there.
  struct Flight {
    std::shared_ptr<End> home;
    std::function<void(const absl::Status&)> back;
    absl::Status status = absl::UnavailableError("the peer closed the connection");
    ~Flight() {
      home->Return([back = std::move(back), status = std::move(status)] { back(status); });
    }
  };
  class Copy : public Offer {
   public:
    Copy(ProgressThread* thread, const Slice& from) : thread_(thread), from_(from) {}
    int64_t bytes() const override { return from_.length; }
    void Receive(const Slice& into, std::function<void(const absl::Status&)> done) override {
      std::memcpy(into.data(), from_.data(), into.length);
      received = true;
      thread_->Defer([done = std::move(done)] { done(absl::OkStatus()); });
    }
    bool received = false;

   private:
    ProgressThread* const thread_;
    const Slice& from_;
  };

  void Carry(std::function<void(Session*, Flight*)> there, std::function<void(const absl::Status&)> back) {
    ++under_way_;
    auto flight = std::make_shared<Flight>();
    flight->home = near_;
    flight->back = [this, back = std::move(back)](const absl::Status& status) {
      back(status);
      Received(1);
    };
    far_->Deliver([there = std::move(there), flight](Session* session) { there(session, flight.get()); });
  }
  void Received(int flights) {
    under_way_ -= flights;
    if (closing_ && under_way_ == 0 && closed_ != nullptr) std::exchange(closed_, nullptr)();
  }

  const std::shared_ptr<End> near_, far_;
  ProgressThread* const thread_;
  const std::string peer_;
  std::weak_ptr<Session> session_;
  int64_t under_way_ = 0;
  bool closing_ = false;
  std::function<void()> closed_;
};

}  // namespace

class LoopbackNetwork {
 public:
  struct Listening {
    SessionHost* host;
    Accept accept;
  };

  absl::StatusOr<std::string> Add(Address address, SessionHost* host, Accept accept) {
    MutexLock lock(&mutex_);
    if (address.port == 0) {
      do address.port = ++last_port_;
      while (address.port == 0 || listening_.contains(address.ToString()));
    }
    if (!listening_.emplace(address.ToString(), Listening{host, std::move(accept)}).second) {
      return absl::UnavailableError(absl::StrCat(address.ToString(), " is in use"));
    }
    return address.ToString();
  }
  void Remove(const std::string& address) {
    MutexLock lock(&mutex_);
    listening_.erase(address);
  }
  // Returns the near side of a new connection; the far side is in transit to its transport.
  absl::StatusOr<std::unique_ptr<Wire>> Dial(const std::string& address, ProgressThread* thread) {
    MutexLock lock(&mutex_);
    const auto found = listening_.find(address);
    if (found == listening_.end()) return absl::UnavailableError(absl::StrCat("nobody listens at ", address));
    SessionHost* const host = found->second.host;
    const auto near = std::make_shared<End>(thread), far = std::make_shared<End>(&host->thread());
    const std::string number = absl::StrCat("loopback:", ++connections_);
    // Posted before anything the near side sends.
    host->thread().Post([host, near, far, number, accept = found->second.accept] {
      const bool room = host->HasRoom();
      const auto session =
          host->AddAccepted(std::make_unique<LoopbackWire>(far, near, &host->thread(), number), accept);
      if (!room) session->Shut(absl::UnavailableError("too many connections"), "excess", false);
    });
    return std::make_unique<LoopbackWire>(near, far, thread, address);
  }

 private:
  Mutex mutex_;
  uint16_t last_port_ ABSL_GUARDED_BY(mutex_) = 1023;
  int64_t connections_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Listening> listening_ ABSL_GUARDED_BY(mutex_);
};

std::shared_ptr<LoopbackNetwork> NewLoopbackNetwork() { return std::make_shared<LoopbackNetwork>(); }

namespace {

class LoopbackListener : public Listener {
 public:
  LoopbackListener(std::shared_ptr<LoopbackNetwork> network, std::string address)
      : network_(std::move(network)), address_(std::move(address)) {}
  ~LoopbackListener() override { network_->Remove(address_); }
  std::string address() const override { return address_; }

 private:
  const std::shared_ptr<LoopbackNetwork> network_;
  const std::string address_;
};

class LoopbackTransport : public Transport {
 public:
  LoopbackTransport(std::shared_ptr<LoopbackNetwork> network, std::unique_ptr<SessionHost> host)
      : network_(std::move(network)), host_(std::move(host)) {}

  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Allocate(int64_t bytes) override {
    return HostBuffer::Allocate(bytes, host_->shared_counters());
  }
  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Register(std::byte* data, int64_t bytes, const MemoryPlace& place,
                                                             std::shared_ptr<void> owner) override {
    return HostBuffer::Register(data, bytes, place, std::move(owner), host_->shared_counters());
  }
  absl::StatusOr<std::unique_ptr<Listener>> Listen(absl::string_view address, Accept accept) override {
    KVLINK_ASSIGN_OR_RETURN(Address parsed, ParseAddress(address));
    KVLINK_ASSIGN_OR_RETURN(std::string bound, network_->Add(std::move(parsed), host_.get(), std::move(accept)));
    return std::make_unique<LoopbackListener>(network_, std::move(bound));
  }
  absl::StatusOr<std::shared_ptr<Connection>> Connect(absl::string_view address,
                                                      std::shared_ptr<ConnectionEvents> events,
                                                      absl::Time deadline) override {
    KVLINK_ASSIGN_OR_RETURN(Address parsed, ParseAddress(address));
    const std::string name = parsed.ToString();
    return host_->Connect([this, name] { return network_->Dial(name, &host_->thread()); }, std::move(events), deadline);
  }
  TransportStats Stats() const override { return host_->Stats(); }

 private:
  const std::shared_ptr<LoopbackNetwork> network_;
  const std::unique_ptr<SessionHost> host_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> NewLoopbackTransport(std::shared_ptr<LoopbackNetwork> network,
                                                                const TransportOptions& options) {
  KVLINK_ASSIGN_OR_RETURN(auto host, SessionHost::Start(options, nullptr));
  return std::make_unique<LoopbackTransport>(std::move(network), std::move(host));
}

}  // namespace kvlink::transport
