// One thread waits for all connections at once: a server with a thread per connection could be blocked by that many
// silent ones.
#include "store/node/watch/page_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "base/status.h"
#include "transport/address.h"

namespace kvlink::store::node {
namespace {

constexpr int64_t kMaxPeers = 64;
constexpr int kAtOnce = 16;  // accepted before existing peers are served
constexpr size_t kMaxRequest = 8192;
constexpr absl::Duration kRequestWithin = absl::Seconds(10), kAnswerWithin = absl::Seconds(10);
constexpr absl::Duration kPause = absl::Milliseconds(100);  // if the system has no room

std::string Answer(absl::string_view status, absl::string_view type, absl::string_view body) {
  return absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type, "\r\nContent-Length: ", body.size(),
                      "\r\nConnection: close\r\n\r\n", body);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageServer>> PageServer::Start(const std::string& address, Page page) {
  KVLINK_ASSIGN_OR_RETURN(transport::Address named, transport::ParseAddress(address));
  KVLINK_ASSIGN_OR_RETURN(const transport::SocketAddress resolved, transport::Resolve(named));
  const size_t max_peers = std::clamp<int64_t>(DescriptorLimit() / 16, 8, kMaxPeers);
  std::unique_ptr<PageServer> server(new PageServer(std::move(page), max_peers));
  server->listener_ = Descriptor(socket(resolved.get()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  server->wake_ = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const int listener = server->listener_.get(), yes = 1;
  if (listener >= 0) (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  transport::SocketAddress bound;
  bound.length = sizeof(bound.storage);
  if (listener < 0 || server->wake_.get() < 0 || bind(listener, resolved.get(), resolved.length) != 0 ||
      listen(listener, SOMAXCONN) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&bound.storage), &bound.length) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics at ", address, ": ", std::strerror(errno), "; name another address"));
  }
  server->address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", bound.ToAddress().port);
  server->thread_ = Thread("metrics", [raw = server.get()] { raw->Run(); });
  return server;
}

PageServer::~PageServer() {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
  thread_.Join();
}

void PageServer::Run() {
  while (true) {
    const absl::Time begun = SteadyNow();
    std::vector<pollfd> events = {{wake_.get(), POLLIN, 0}};
    absl::Time until = absl::InfiniteFuture();
    if (begun < listen_again_) until = listen_again_;
    for (const Peer& peer : peers_) {
      const short wanted = peer.answer.empty() ? POLLIN : POLLOUT;
      events.push_back({peer.socket.get(), wanted, 0});
      until = std::min(until, peer.until);
    }
    if (begun >= listen_again_) events.push_back({listener_.get(), POLLIN, 0});
    const int wait = until == absl::InfiniteFuture()
                         ? -1
                         : static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(until - begun) + 1));
    if (poll(events.data(), events.size(), wait) < 0) continue;
    if (events[0].revents != 0) return;
    const absl::Time now = SteadyNow();
    size_t next = 1;
    peers_.remove_if([&](Peer& peer) {
      const bool ready = events[next++].revents != 0;
      return now >= peer.until || (ready && !Serve(&peer, now));
    });
    if (next < events.size() && events[next].revents != 0) Take(now);
  }
}

void PageServer::Take(absl::Time now) {
  for (int i = 0; i < kAtOnce; ++i) {
    Descriptor taken(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (taken.get() >= 0) {
      if (peers_.size() >= max_peers_) MakeRoom();
      peers_.push_back({std::move(taken), now + kRequestWithin, "", ""});
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN) return;
    // Out of descriptors or memory.
    if (!peers_.empty()) MakeRoom();
    listen_again_ = now + kPause;
    return;
  }
}

void PageServer::MakeRoom() {
  const auto silent = std::find_if(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.answer.empty(); });
  peers_.erase(silent != peers_.end() ? silent : peers_.begin());
}

bool PageServer::Serve(Peer* peer, absl::Time now) {
  if (peer->answer.empty()) {
    char piece[2048];
    const ssize_t n = recv(peer->socket.get(), piece, sizeof(piece), 0);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) return false;
    peer->request.append(piece, static_cast<size_t>(n));
    if (!absl::StrContains(peer->request, "\r\n\r\n")) return peer->request.size() < kMaxRequest;
    peer->answer = AnswerTo(peer->request);
    peer->until = now + kAnswerWithin;
  }
  const ssize_t n =
      send(peer->socket.get(), peer->answer.data() + peer->sent, peer->answer.size() - peer->sent, MSG_NOSIGNAL);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  peer->sent += static_cast<size_t>(n);
  return peer->sent < peer->answer.size();
}

std::string PageServer::AnswerTo(absl::string_view request) const {
  if (!absl::StartsWith(request, "GET ")) return Answer("405 Method Not Allowed", "text/plain", "only GET\n");
  request.remove_prefix(4);
  const absl::string_view path = request.substr(0, request.find_first_of(" ?\r"));
  if (path != "/metrics") return Answer("404 Not Found", "text/plain", "only /metrics\n");
  return Answer("200 OK", "text/plain; version=0.0.4; charset=utf-8", page_());
}

}  // namespace kvlink::store::node
