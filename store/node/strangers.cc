// At most a few hundred, so a linear list is enough.
#include "store/node/strangers.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace kvlink::store::node {

void Strangers::Add(std::string peer, std::string host, Descriptor socket) {
  MutexLock lock(&mutex_);
  if (strangers_.size() >= static_cast<size_t>(max_)) ForgetClosed();
  while (strangers_.size() >= static_cast<size_t>(max_)) CutOne();
  strangers_.push_back({std::move(peer), std::move(host), std::move(socket)});
}

void Strangers::Known(absl::string_view peer) {
  if (!absl::ConsumePrefix(&peer, "ipv4:")) absl::ConsumePrefix(&peer, "ipv6:");
  const std::string name = absl::StrReplaceAll(peer, {{"%5B", "["}, {"%5D", "]"}});
  MutexLock lock(&mutex_);
  strangers_.remove_if([&](const Stranger& one) { return one.peer == name; });
}

bool Strangers::Cut() {
  MutexLock lock(&mutex_);
  if (strangers_.empty()) return false;
  CutOne();
  return true;
}

void Strangers::Sweep() {
  MutexLock lock(&mutex_);
  ForgetClosed();
}

int Strangers::count() const {
  MutexLock lock(&mutex_);
  return static_cast<int>(strangers_.size());
}

int64_t Strangers::cut() const {
  MutexLock lock(&mutex_);
  return cut_;
}

void Strangers::ForgetClosed() {
  std::vector<pollfd> sockets;
  for (const Stranger& one : strangers_) sockets.push_back({one.socket.get(), POLLRDHUP, 0});
  if (poll(sockets.data(), sockets.size(), 0) <= 0) return;
  size_t next = 0;
  strangers_.remove_if([&](const Stranger&) { return sockets[next++].revents != 0; });
}

void Strangers::CutOne() {
  std::map<std::string, int> of_host;
  for (const Stranger& one : strangers_) ++of_host[one.host];
  const auto most = std::max_element(of_host.begin(), of_host.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto oldest =
      std::find_if(strangers_.begin(), strangers_.end(), [&](const Stranger& one) { return one.host == most->first; });
  shutdown(oldest->socket.get(), SHUT_RDWR);  // gRPC sees the end, and closes it
  strangers_.erase(oldest);
  ++cut_;
}

}  // namespace kvlink::store::node
