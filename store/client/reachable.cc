// One TCP connection of the system's own, because its errno says what a refused connection is; it sends nothing.
#include "store/client/reachable.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

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

absl::Status Try(const std::string& address, const transport::SocketAddress& at, absl::Time deadline) {
  const Descriptor socket(::socket(at.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.get() < 0) return absl::OkStatus();  // gRPC will say so
  if (connect(socket.get(), at.get(), at.length) == 0) return absl::OkStatus();
  if (errno != EINPROGRESS) return Refused(address, errno);
  while (true) {
    pollfd wait{socket.get(), POLLOUT, 0};
    const int64_t left = std::clamp<int64_t>(absl::ToInt64Milliseconds(deadline - SteadyNow()), 0, 60000);
    const int ready = poll(&wait, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return absl::OkStatus();
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error != 0) {
      return Refused(address, error);
    }
    return absl::OkStatus();
  }
}

}  // namespace

absl::Status CheckReachable(const std::string& address, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const transport::Address parsed, transport::ParseAddress(address));
  const auto resolved = transport::ResolveAll(parsed);
  if (!resolved.ok()) {
    return absl::UnavailableError(
        absl::StrCat("the host of ", address, " is not known: ", resolved.status().message(), "; check the name"));
  }
  // "localhost" is ::1 as well on most hosts, where a node at 127.0.0.1 does not listen.
  absl::Status last;
  for (const transport::SocketAddress& at : *resolved) {
    last = Try(address, at, deadline);
    if (last.ok()) return last;
  }
  return last;
}

}  // namespace kvlink::store::client
