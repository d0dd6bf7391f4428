#include "transport/local/poller.h"

#include <sys/epoll.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/status.h"
#include "transport/frame.h"
#include "transport/transport.h"

namespace kvlink::transport {
namespace {

constexpr int kEvents = 64;  // per round, so that other work gets its turn

epoll_event Interest(uint64_t id, uint32_t events) {
  epoll_event interest = {};
  interest.events = events;
  interest.data.u64 = id;
  return interest;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Poller>> Poller::Create() {
  Descriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  if (epoll.get() < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("local transport: cannot wait for sockets: ", std::strerror(errno)));
  }
  return std::unique_ptr<Poller>(new Poller(std::move(epoll)));
}

// One byte more than the longest frame, so that a longer packet is recognised as invalid.
Poller::Poller(Descriptor epoll)
    : epoll_(std::move(epoll)), packet_(static_cast<size_t>(kFrameHeaderBytes + kMaxMessageBytes + 1), '\0') {}

uint64_t Poller::Watch(int fd, uint32_t events, Watcher* watcher) {
  const uint64_t id = ++last_id_;
  epoll_event interest = Interest(id, events);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &interest) != 0) return 0;
  watched_.emplace(id, Watched{fd, watcher});
  return id;
}

void Poller::Change(uint64_t id, uint32_t events) {
  const auto found = watched_.find(id);
  if (found == watched_.end()) return;
  epoll_event interest = Interest(id, events);
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second.fd, &interest);
}

void Poller::Forget(uint64_t id) {
  const auto found = watched_.find(id);
  if (found == watched_.end()) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second.fd, nullptr);
  watched_.erase(found);
}

bool Poller::Poll() {
  epoll_event events[kEvents];
  const int count = epoll_wait(epoll_.get(), events, kEvents, 0);
  for (int i = 0; i < count; ++i) {
    const auto found = watched_.find(events[i].data.u64);  // an earlier watcher may have forgotten it
    if (found != watched_.end()) found->second.watcher->Ready(events[i].events);
  }
  return count > 0;
}

}  // namespace kvlink::transport
