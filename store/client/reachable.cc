// Uses plain TCP connections, because errno tells whether a connection was refused; sends no data.
#include "store/client/reachable.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "base/status.h"
#include "transport/address.h"

namespace kvlink::store::client {
namespace {

absl::Status Refused(const std::string& address, int error) {
  if (error == ECONNREFUSED) {
    return absl::UnavailableError(absl::StrCat("no node answers at ", address,
                                               " (connection refused): is it running? start one with kvlink store"));
  }
  return absl::UnavailableError(
      absl::StrCat("no node can be reached at ", address, " (", std::strerror(error), "): check the address"));
}

// A connection being made.
struct Attempt {
  Descriptor socket;
  std::optional<absl::Status> ended;
};

Attempt Begin(const std::string& address, const transport::SocketAddress& at) {
  Attempt attempt{Descriptor(::socket(at.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), {}};
  // Without a socket the answer is unknown; gRPC will report it.
  if (attempt.socket.get() < 0 || connect(attempt.socket.get(), at.get(), at.length) == 0) {
    attempt.ended = absl::OkStatus();
  } else if (errno != EINPROGRESS) {
    attempt.ended = Refused(address, errno);
  }
  return attempt;
}

// The outcome of the connection, once its socket is writable.
absl::Status OutcomeOf(const std::string& address, const Descriptor& socket) {
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error == 0) return absl::OkStatus();
  return Refused(address, error);
}

}  // namespace

absl::Status CheckReachable(const std::string& address, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const transport::Address parsed, transport::ParseAddress(address));
  const auto resolved = transport::ResolveAll(parsed);
  if (!resolved.ok()) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve the host of ", resolved.status().message(), "; check the name"));
  }
  // All at once: on most hosts "localhost" is also ::1, where a node at 127.0.0.1 does not listen, and the first
  // address may drop packets silently.
  std::vector<Attempt> attempts;
  for (const transport::SocketAddress& at : *resolved) attempts.push_back(Begin(address, at));
  while (true) {
    std::vector<pollfd> waits;
    absl::Status last;
    for (const Attempt& attempt : attempts) {
      if (!attempt.ended.has_value()) {
        waits.push_back({attempt.socket.get(), POLLOUT, 0});
      } else if (attempt.ended->ok()) {
        return absl::OkStatus();
      } else {
        last = *attempt.ended;
      }
    }
    if (waits.empty()) return last;
    const int64_t left = std::clamp<int64_t>(absl::ToInt64Milliseconds(deadline - SteadyNow()), 0, 60000);
    const int ready = poll(waits.data(), waits.size(), static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return absl::OkStatus();  // gRPC will find out
    if (ready == 0 && SteadyNow() + absl::Milliseconds(1) >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("nothing answers at ", address, ": check the address, and for a firewall in between"));
    }
    for (Attempt& attempt : attempts) {
      const auto wait = absl::c_find_if(waits, [&](const pollfd& one) { return one.fd == attempt.socket.get(); });
      if (ready > 0 && wait != waits.end() && wait->revents != 0) attempt.ended = OutcomeOf(address, attempt.socket);
    }
  }
}

}  // namespace kvlink::store::client
