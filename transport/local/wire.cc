#include "transport/local/wire.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/status.h"
#include "transport/frame.h"
#include "transport/session.h"

namespace kvlink::transport {
namespace {

constexpr int kPackets = 16;        // per socket and round, so that the others get their turn
constexpr int kLastPackets = 4096;  // that a departed peer may have left behind
constexpr int kLargestPacket = static_cast<int>(kFrameHeaderBytes + kMaxMessageBytes);

// Space for the descriptors of one packet.
struct Control {
  alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(int) * kMaxDescriptors)];
};

// Takes over the descriptors of a received packet.
std::vector<Descriptor> TakeDescriptors(msghdr* message) {
  std::vector<Descriptor> taken;
  for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      taken.emplace_back(fd);
    }
  }
  return taken;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalWire>> LocalWire::Open(Poller* poller, ProgressThread* thread, Descriptor socket,
                                                           const std::string& path) {
  auto shared = std::make_shared<LocalShared>();
  ucred credentials = {};
  socklen_t length = sizeof(credentials);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return absl::UnavailableError(absl::StrCat(path, ": who connects is not known: ", std::strerror(errno)));
  }
  shared->credentials = {credentials.pid, credentials.uid, credentials.gid};
  shared->peer = absl::StrCat(path, " (process ", credentials.pid, ")");
  // A packet must fit into the buffer as a whole; the kernel doubles the requested size.
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kLargestPacket, sizeof(kLargestPacket));
  int room = 0;
  length = sizeof(room);
  getsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &room, &length);
  if (room < kLargestPacket + 64) {
    return absl::UnavailableError(absl::StrCat(path, ": a socket may buffer only ", room,
                                               " bytes here, and a packet has up to ", kLargestPacket,
                                               "; raise net.core.wmem_max"));
  }
  return std::unique_ptr<LocalWire>(new LocalWire(poller, thread, std::move(socket), std::move(shared)));
}

LocalWire::~LocalWire() {
  Shut();
  for (Outgoing& outgoing : queue_) CountDown(&outgoing.descriptors);
}

void LocalWire::Attach(std::weak_ptr<Session> session) {
  shared_->session = std::move(session);
  watch_ = poller_->Watch(socket_.get(), EPOLLIN, this);
  if (watch_ == 0) Broken(errno);
}

void LocalWire::SendFrame(std::string frame, std::function<void()> taken) {
  Outgoing outgoing{std::move(frame), std::exchange(enclosed_, {}), std::move(taken)};
  if (shut_ || broken_) return Taken(&outgoing);
  if (queue_.empty() && Give(&outgoing)) return Taken(&outgoing);
  queue_.push_back(std::move(outgoing));
  if (queue_.size() == 1) SetInterest();
}

// Never called by the session, since no buffer is ours.
void LocalWire::SendPayload(std::string, const Slice&, std::function<void(const absl::Status&)> done) {
  thread_->Defer([done = std::move(done)] { done(absl::UnavailableError("a local connection carries no payloads")); });
}

void LocalWire::Close(bool flush, std::function<void()> closed) {
  closed_ = std::move(closed);
  closing_ = true;
  if (!flush || queue_.empty() || broken_) return Shut();
  SetInterest();
}

void LocalWire::Shut() {
  if (!std::exchange(shut_, true)) {
    poller_->Forget(watch_);
    socket_ = Descriptor();
    for (Outgoing& outgoing : queue_) Taken(&outgoing);
    queue_.clear();
    DropEnclosed();
  }
  if (closed_ == nullptr) return;
  // Deferred, so that frames are reported as taken first.
  thread_->Defer([closed = std::exchange(closed_, nullptr), keep = shared_->session.lock()] { closed(); });
}

void LocalWire::Ready(uint32_t events) {
  const auto keep = shared_->session.lock();
  if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0 && !queue_.empty()) Write();
  if (closing_) {
    if (queue_.empty() || broken_) Shut();
    return;
  }
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) reading_ = true;  // the remaining input is finite
  if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) Read(kPackets);
}

bool LocalWire::Read(int packets) {
  const auto session = shared_->session.lock();
  std::string& packet = poller_->packet();
  while (!closing_ && (reading_ || broken_) && packets-- > 0) {
    iovec bytes = {packet.data(), packet.size()};
    Control control;
    msghdr message = {};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    // Without space for them, the kernel closes the descriptors before this process sees them.
    if (shared_->takes_descriptors) {
      message.msg_control = control.bytes;
      message.msg_controllen = sizeof(control.bytes);
    }
    const ssize_t length = recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && errno == ECONNRESET && !reset_) {
      reset_ = true;  // data sent before the reset is still readable
      continue;
    }
    if (length < 0 && errno == EAGAIN && !reset_) return true;
    if (length <= 0) {
      Disconnect(length == 0 || reset_ ? 0 : errno);
      return false;
    }
    shared_->arrived = TakeDescriptors(&message);
    if ((message.msg_flags & MSG_CTRUNC) != 0) {
      session->Shut(absl::InvalidArgumentError(absl::StrCat(
                        shared_->peer, " broke the protocol: more descriptors beside a message than are taken")),
                    "descriptors", false);
    } else {
      session->OnFrame(absl::string_view(packet.data(), static_cast<size_t>(length)));
    }
    shared_->arrived.clear();
  }
  return !closing_;
}

void LocalWire::Write() {
  while (!queue_.empty() && !broken_) {
    if (!Give(&queue_.front())) return;
    Taken(&queue_.front());
    queue_.pop_front();
  }
  if (!shut_) SetInterest();
}

bool LocalWire::Give(Outgoing* outgoing) {
  iovec bytes = {outgoing->frame.data(), outgoing->frame.size()};
  Control control;
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  if (!outgoing->descriptors.empty()) {
    std::vector<int> numbers;
    for (const Descriptor& descriptor : outgoing->descriptors) numbers.push_back(descriptor.get());
    const size_t size = numbers.size() * sizeof(int);
    std::memset(&control, 0, sizeof(control));
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(header), numbers.data(), size);
  }
  ssize_t sent = -1;
  do sent = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno == EAGAIN) return false;
  if (sent < 0) Broken(errno);
  return true;
}

// The peer may have sent something before it went away, which is delivered first.
void LocalWire::Broken(int error) {
  if (std::exchange(broken_, true)) return;
  thread_->Defer([this, keep = shared_->session.lock(), error] {
    if (closing_) return;
    if (watch_ == 0 || Read(kLastPackets)) Disconnect(error);
  });
}

void LocalWire::Disconnect(int error) {
  const std::string why = error == 0 || error == EPIPE || error == ECONNRESET ? "the other side closed the connection"
                                                                              : std::strerror(error);
  if (const auto session = shared_->session.lock()) {
    session->OnDisconnected(absl::UnavailableError(absl::StrCat(shared_->peer, ": ", why)));
  }
}

void LocalWire::Taken(Outgoing* outgoing) {
  CountDown(&outgoing->descriptors);
  if (outgoing->taken != nullptr) thread_->Defer(std::move(outgoing->taken));
}

void LocalWire::CountDown(std::vector<Descriptor>* descriptors) {
  shared_->queued_descriptors -= static_cast<int>(descriptors->size());
  descriptors->clear();
}

void LocalWire::SetInterest() {
  const uint32_t out = queue_.empty() ? 0 : static_cast<uint32_t>(EPOLLOUT);
  poller_->Change(watch_, out | (closing_ || !reading_ ? 0 : static_cast<uint32_t>(EPOLLIN)));
}

void LocalWire::SetReading(bool reading) {
  reading_ = reading;
  if (!shut_ && watch_ != 0) SetInterest();
}

}  // namespace kvlink::transport
