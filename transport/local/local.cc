#include "transport/local/local.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/local/listener.h"
#include "transport/local/poller.h"
#include "transport/local/wire.h"
#include "transport/session_host.h"

namespace kvlink::transport {
namespace {

absl::Status NoPayloads() {
  return absl::UnimplementedError("a local connection carries messages and descriptors, no payloads; map the memory");
}

class LocalHandle : public LocalConnection {
 public:
  LocalHandle(std::shared_ptr<Connection> inner, std::shared_ptr<LocalShared> shared)
      : inner_(std::move(inner)), shared_(std::move(shared)) {}

  absl::Status SendMessage(absl::string_view message) override { return inner_->SendMessage(message); }
  absl::Status SendMessageWithDescriptors(absl::string_view message, absl::Span<const int> descriptors) override {
    const auto session = shared_->session.lock();
    if (session == nullptr) return absl::UnavailableError(absl::StrCat("the connection to ", peer(), " is closed"));
    if (descriptors.size() > static_cast<size_t>(kMaxDescriptors)) {
      return absl::InvalidArgumentError(
          absl::StrCat(descriptors.size(), " descriptors beside a message; at most ", kMaxDescriptors, " can be sent"));
    }
    std::vector<Descriptor> copies;
    for (const int descriptor : descriptors) {
      copies.emplace_back(fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
      if (copies.back().get() >= 0) continue;
      const std::string message = absl::StrCat("descriptor ", descriptor, " cannot be sent: ", std::strerror(errno));
      return errno == EBADF ? absl::InvalidArgumentError(message) : absl::ResourceExhaustedError(message);
    }
    const int count = static_cast<int>(copies.size());
    if (shared_->queued_descriptors.fetch_add(count) + count > kMaxQueuedDescriptors) {
      shared_->queued_descriptors -= count;
      return absl::ResourceExhaustedError(absl::StrCat(peer(), " does not take descriptors fast enough"));
    }
    const absl::Status reserved = session->Reserve(static_cast<int64_t>(message.size()));
    if (!reserved.ok()) {
      shared_->queued_descriptors -= count;
      return reserved;
    }
    std::string frame(static_cast<size_t>(kFrameHeaderBytes), '\0');
    frame.append(message.data(), message.size());
    auto shared = std::make_shared<std::vector<Descriptor>>(std::move(copies));  // std::function copies its captures
    session->thread()->Post([session, frame = std::move(frame), shared]() mutable {
      auto* const wire = static_cast<LocalWire*>(session->wire());
      wire->Enclose(std::move(*shared));
      session->SendMessage(std::move(frame));
      wire->DropEnclosed();
    });
    return absl::OkStatus();
  }
  void PostReceive(uint64_t, Slice, absl::Time, Received done) override {
    Refuse([done = std::move(done)] { done(NoPayloads(), 0); });
  }
  void Send(uint64_t, Slice, absl::Time, Sent done) override {
    Refuse([done = std::move(done)] { done(NoPayloads()); });
  }
  void CancelReceive(uint64_t) override {}
  void CancelSend(uint64_t) override {}
  void Close() override { inner_->Close(); }
  std::string peer() const override { return shared_->peer; }
  PeerCredentials credentials() const override { return shared_->credentials; }

 private:
  // Not within the call itself, as transport.h promises; unless the thread is gone.
  void Refuse(std::function<void()> done) {
    const auto session = shared_->session.lock();
    if (session == nullptr || !session->thread()->Post(done)) done();
  }
  const std::shared_ptr<Connection> inner_;
  const std::shared_ptr<LocalShared> shared_;
};

// Between the session and the user's events: adds the descriptors attached to a message.
class WithDescriptors : public ConnectionEvents {
 public:
  WithDescriptors(std::shared_ptr<ConnectionEvents> user, std::shared_ptr<LocalShared> shared)
      : user_(std::move(user)), local_(dynamic_cast<LocalEvents*>(user_.get())), shared_(std::move(shared)) {}
  bool takes_descriptors() const { return local_ != nullptr; }
  void OnMessage(absl::string_view message) override {
    if (shared_->arrived.empty()) return user_->OnMessage(message);
    local_->OnMessageWithDescriptors(message, std::exchange(shared_->arrived, {}));
  }
  void OnClosed(const absl::Status& why) override { user_->OnClosed(why); }

 private:
  const std::shared_ptr<ConnectionEvents> user_;
  LocalEvents* const local_;
  const std::shared_ptr<LocalShared> shared_;
};

class LocalListener : public Listener {
 public:
  LocalListener(ProgressThread* thread, std::unique_ptr<LocalSocket> socket)
      : thread_(thread), socket_(std::move(socket)) {}
  ~LocalListener() override {
    thread_->Run([this] { socket_->Stop(); });
  }
  std::string address() const override { return socket_->path(); }

 private:
  ProgressThread* const thread_;
  const std::unique_ptr<LocalSocket> socket_;
};

// Returns a connected socket.
absl::StatusOr<Descriptor> ConnectSocket(const std::string& path, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const sockaddr_un address, LocalAddress(path));
  Descriptor made(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (made.get() < 0) return absl::UnavailableError(absl::StrCat(path, ": no socket: ", std::strerror(errno)));
  while (connect(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno != EAGAIN && errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("connecting to ", path, ": ", std::strerror(errno)));
    }
    // The kernel's queue of connections to be accepted is full.
    if (SteadyNow() >= deadline) return absl::DeadlineExceededError(absl::StrCat(path, ": not accepted in time"));
    absl::SleepFor(absl::Milliseconds(1));
  }
  return made;
}

class LocalTransportOverSockets : public LocalTransport {
 public:
  LocalTransportOverSockets(std::unique_ptr<Poller> poller, std::unique_ptr<SessionHost> host)
      : poller_(std::move(poller)), host_(std::move(host)) {}

  absl::StatusOr<std::unique_ptr<Listener>> ListenLocal(const std::string& path, mode_t mode,
                                                        AcceptLocal accept) override {
    KVLINK_ASSIGN_OR_RETURN(auto socket, LocalSocket::Bind(path, mode));
    bool started = false;
    host_->thread().Run([&] {
      started = socket->Start(poller_.get(), &host_->thread(),
                              [this, path, accept](Descriptor connected) { Take(std::move(connected), path, accept); });
    });
    if (!started) return absl::UnavailableError(absl::StrCat(path, ": the socket cannot be waited for"));
    return std::make_unique<LocalListener>(&host_->thread(), std::move(socket));
  }
  absl::StatusOr<std::shared_ptr<LocalConnection>> ConnectLocal(const std::string& path,
                                                                std::shared_ptr<ConnectionEvents> events,
                                                                absl::Time deadline) override {
    KVLINK_ASSIGN_OR_RETURN(Descriptor connected, ConnectSocket(path, deadline));
    KVLINK_ASSIGN_OR_RETURN(std::unique_ptr<Wire> wire, Open(std::move(connected), path));
    const auto shared = static_cast<LocalWire*>(wire.get())->shared();
    auto adapter = std::make_shared<WithDescriptors>(std::move(events), shared);
    shared->takes_descriptors = adapter->takes_descriptors();
    // Used at most once; std::function copies its captures.
    const auto dialled = std::make_shared<std::unique_ptr<Wire>>(std::move(wire));
    KVLINK_ASSIGN_OR_RETURN(
        auto inner, host_->Connect([dialled]() -> absl::StatusOr<std::unique_ptr<Wire>> { return std::move(*dialled); },
                                   std::move(adapter), deadline));
    return std::make_shared<LocalHandle>(std::move(inner), shared);
  }

  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Allocate(int64_t) override { return NoPayloads(); }
  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Register(std::byte*, int64_t, const MemoryPlace&,
                                                             std::shared_ptr<void>) override {
    return NoPayloads();
  }
  absl::StatusOr<std::unique_ptr<Listener>> Listen(absl::string_view address, Accept accept) override {
    return ListenLocal(std::string(address), 0600, std::move(accept));
  }
  absl::StatusOr<std::shared_ptr<Connection>> Connect(absl::string_view address,
                                                      std::shared_ptr<ConnectionEvents> events,
                                                      absl::Time deadline) override {
    return ConnectLocal(std::string(address), std::move(events), deadline);
  }
  TransportStats Stats() const override { return host_->Stats(); }

 private:
  absl::StatusOr<std::unique_ptr<Wire>> Open(Descriptor connected, const std::string& path) {
    return LocalWire::Open(poller_.get(), &host_->thread(), std::move(connected), path);
  }
  void Take(Descriptor connected, const std::string& path, const AcceptLocal& accept) {
    if (!host_->HasRoom()) return host_->counters().Closed("excess");
    auto wire = Open(std::move(connected), path);
    if (!wire.ok()) return host_->counters().Closed("network");
    const auto shared = static_cast<LocalWire*>(wire->get())->shared();
    host_->AddAccepted(*std::move(wire),
                       [accept, shared](std::shared_ptr<Connection> inner) -> std::shared_ptr<ConnectionEvents> {
                         auto events = accept(std::make_shared<LocalHandle>(std::move(inner), shared));
                         if (events == nullptr) return nullptr;
                         auto adapter = std::make_shared<WithDescriptors>(std::move(events), shared);
                         shared->takes_descriptors = adapter->takes_descriptors();
                         return adapter;
                       });
  }

  const std::unique_ptr<Poller> poller_;  // must outlive the host's thread
  const std::unique_ptr<SessionHost> host_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LocalTransport>> NewLocalTransport(const TransportOptions& options) {
  KVLINK_ASSIGN_OR_RETURN(auto poller, Poller::Create());
  KVLINK_ASSIGN_OR_RETURN(auto host, SessionHost::Start(options, poller.get()));
  return std::make_unique<LocalTransportOverSockets>(std::move(poller), std::move(host));
}

}  // namespace kvlink::transport
