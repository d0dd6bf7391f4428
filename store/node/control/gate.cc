// gRPC takes every connection and spends about 30 KiB on each, more with each call, so ten thousand unknown peers would
// take the node's memory and processors. Connections are cheap until gRPC has them, so a crowd waits here.
#include "store/node/control/gate.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/address.h"

namespace kvlink::store::node {
namespace {

constexpr int kAtOnce = 64;                                // accepted per round
constexpr absl::Duration kPause = absl::Milliseconds(10);  // between rounds, in a crowd
constexpr absl::Duration kTurn = absl::Milliseconds(10);   // between connections passed to gRPC, in a crowd

Descriptor ListenAt(const transport::SocketAddress& address) {
  Descriptor made(socket(address.get()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int yes = 1;
  setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (address.get()->sa_family == AF_INET6) setsockopt(made.get(), IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes));
  if (bind(made.get(), address.get(), address.length) != 0 || listen(made.get(), SOMAXCONN) != 0) return Descriptor();
  return made;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ConnectionGate>> ConnectionGate::Listen(const std::string& address, Strangers* strangers,
                                                                       int max_waiting) {
  KVLINK_ASSIGN_OR_RETURN(transport::Address named, transport::ParseAddress(address));
  std::unique_ptr<ConnectionGate> gate(new ConnectionGate(strangers, max_waiting));
  // A name may resolve to several addresses, some of them not this host's: one is enough.
  KVLINK_ASSIGN_OR_RETURN(auto all, transport::ResolveAll(named));
  for (size_t i = 0; i < all.size(); ++i) {
    Descriptor made = ListenAt(all[i]);
    if (made.get() < 0) continue;
    if (named.port == 0) {
      transport::SocketAddress bound;
      bound.length = sizeof(bound.storage);
      getsockname(made.get(), reinterpret_cast<sockaddr*>(&bound.storage), &bound.length);
      named.port = bound.ToAddress().port;
      KVLINK_ASSIGN_OR_RETURN(all, transport::ResolveAll(named));
    }
    gate->listeners_.push_back(std::move(made));
  }
  gate->wake_ = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (gate->listeners_.empty() || gate->wake_.get() < 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen at ", address, ": in use, or not this host's"));
  }
  gate->address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", named.port);
  return gate;
}

void ConnectionGate::Start(Give give) {
  give_ = std::move(give);
  thread_ = Thread("control-accept", [this] { Run(); });
}

void ConnectionGate::Stop() {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
  thread_.Join();
  listeners_.clear();
  waiting_.clear();
}

bool ConnectionGate::Crowded() const { return strangers_->count() >= strangers_->max() / 2; }

void ConnectionGate::Run() {
  while (true) {
    absl::Time now = SteadyNow();
    HandOver(now);
    // Waits for the stop event, a connection, or the next turn.
    std::vector<pollfd> events = {{wake_.get(), POLLIN, 0}};
    absl::Time until = count_ > 0 ? next_ : absl::InfiniteFuture();
    if (now >= listen_again_) {
      for (const Descriptor& listener : listeners_) events.push_back({listener.get(), POLLIN, 0});
    } else {
      until = std::min(until, listen_again_);
    }
    const int wait = until == absl::InfiniteFuture()
                         ? -1
                         : static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(until - now) + 1));
    if (poll(events.data(), events.size(), wait) < 0) continue;
    if (events[0].revents != 0) return;
    for (size_t i = 1; i < events.size(); ++i) {
      if (events[i].revents != 0) Take(events[i].fd);
    }
  }
}

void ConnectionGate::Take(int listener) {
  for (int i = 0; i < kAtOnce; ++i) {
    Descriptor taken(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (taken.get() < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN) return;
      // Out of descriptors or memory: retrying at once would not help. Cutting a stranger off makes room.
      const bool is_cut = (errno == EMFILE || errno == ENFILE) && strangers_->Cut();
      listen_again_ = SteadyNow() + (is_cut ? kPause : 10 * kPause);
      return;
    }
    transport::SocketAddress peer;
    peer.length = sizeof(peer.storage);
    if (getpeername(taken.get(), reinterpret_cast<sockaddr*>(&peer.storage), &peer.length) != 0) continue;
    const int yes = 1;
    setsockopt(taken.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    const transport::Address named = peer.ToAddress();
    waiting_[named.host].push_back({named.ToString(), listener, std::move(taken)});
    if (++count_ <= max_waiting_) continue;
    const auto most = std::max_element(waiting_.begin(), waiting_.end(),
                                       [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
    most->second.pop_back();
    if (most->second.empty()) waiting_.erase(most);
    --count_;
  }
  if (Crowded()) listen_again_ = SteadyNow() + kPause;
}

void ConnectionGate::HandOver(absl::Time now) {
  while (count_ > 0 && now >= next_) {
    auto turn = waiting_.upper_bound(last_host_);
    if (turn == waiting_.end()) turn = waiting_.begin();
    last_host_ = turn->first;
    Waiting first = std::move(turn->second.front());
    turn->second.pop_front();
    --count_;
    if (turn->second.empty()) waiting_.erase(turn);
    int given = fcntl(first.socket.get(), F_DUPFD_CLOEXEC, 0);
    if (given < 0 && strangers_->Cut()) given = fcntl(first.socket.get(), F_DUPFD_CLOEXEC, 0);
    if (given < 0) continue;  // out of descriptors: drops this one
    strangers_->Add(std::move(first.peer), last_host_, std::move(first.socket));
    if (Crowded()) next_ = now + kTurn;
    give_(first.listener, given);
  }
}

}  // namespace kvlink::store::node
