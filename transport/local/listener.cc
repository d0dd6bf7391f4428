// Accepts connections at a limited rate. In a crowd that is cut off and reconnects at once, this leaves most of the
// thread's time to existing connections, while new ones wait in the kernel's queue.
#include "transport/local/listener.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/status.h"

namespace kvlink::transport {
namespace {

// A leaky bucket: its capacity, and the time in which one connection drains.
constexpr int64_t kBucket = 64;
constexpr absl::Duration kDrain = absl::Milliseconds(1);
constexpr absl::Duration kPause = absl::Milliseconds(100);  // if the system has no room

absl::Status ListenError(const std::string& path, absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("listening at ", path, ": ", what));
}

// OK if nothing exists there, or a socket on which no process listens.
absl::Status MayReplace(const std::string& path, const sockaddr_un& address) {
  struct stat file = {};
  if (lstat(path.c_str(), &file) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ListenError(path, std::strerror(errno));
  }
  if (!S_ISSOCK(file.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("listening at ", path, ": it exists and is no socket; name another path"));
  }
  const Descriptor probe(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 || errno == EAGAIN) {
    return ListenError(path, "another process listens there");
  }
  return errno == ECONNREFUSED || errno == ENOENT ? absl::OkStatus() : ListenError(path, std::strerror(errno));
}

}  // namespace

absl::StatusOr<sockaddr_un> LocalAddress(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("the path of a socket has 1 to ", sizeof(address.sun_path) - 1,
                                                   " bytes, not ", path.size(), ": \"", path, "\""));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<std::unique_ptr<LocalSocket>> LocalSocket::Bind(const std::string& path, mode_t mode) {
  KVLINK_ASSIGN_OR_RETURN(const sockaddr_un address, LocalAddress(path));
  Descriptor bound(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (bound.get() < 0) return ListenError(path, std::strerror(errno));
  KVLINK_RETURN_IF_ERROR(MayReplace(path, address));
  // Created under a temporary name, so that it already has its permissions and accepts connections when it gets its
  // final name.
  const std::string making = absl::StrCat(path, ".", getpid());
  KVLINK_ASSIGN_OR_RETURN(const sockaddr_un temporary, LocalAddress(making));
  unlink(making.c_str());
  struct stat file = {};
  if (bind(bound.get(), reinterpret_cast<const sockaddr*>(&temporary), sizeof(temporary)) != 0) {
    return ListenError(path, std::strerror(errno));
  }
  if (chmod(making.c_str(), mode) != 0 || listen(bound.get(), SOMAXCONN) != 0 || lstat(making.c_str(), &file) != 0 ||
      rename(making.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(making.c_str());
    return ListenError(path, std::strerror(error));
  }
  return std::unique_ptr<LocalSocket>(new LocalSocket(std::move(bound), path, file));
}

LocalSocket::~LocalSocket() {
  struct stat file = {};
  if (lstat(path_.c_str(), &file) == 0 && file.st_dev == file_.st_dev && file.st_ino == file_.st_ino) {
    unlink(path_.c_str());
  }
}

bool LocalSocket::Start(Poller* poller, ProgressThread* thread, std::function<void(Descriptor)> take) {
  poller_ = poller;
  thread_ = thread;
  take_ = std::move(take);
  watch_ = poller->Watch(socket_.get(), EPOLLIN, this);
  return watch_ != 0;
}

void LocalSocket::Stop() { poller_->Forget(watch_); }

void LocalSocket::Ready(uint32_t) {
  const absl::Time now = thread_->now();
  empty_at_ = std::max(empty_at_, now);
  while (empty_at_ < now + kBucket * kDrain) {
    Descriptor taken(accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (taken.get() >= 0) {
      empty_at_ += kDrain;
      take_(std::move(taken));
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN) return;
    // Out of descriptors or memory: waiting clients stay in the queue, and retrying at once would not help.
    return ListenAgain(now + kPause);
  }
  ListenAgain(now + kDrain);
}

void LocalSocket::ListenAgain(absl::Time when) {
  poller_->Change(watch_, 0);
  thread_->timers().At(when, [poller = poller_, id = watch_] { poller->Change(id, EPOLLIN); });
}

}  // namespace kvlink::transport
