// Every 5 ms, accepts as many connections as its rate allows, as a node's gates do.
#include "tests/integration/bare_listener.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <deque>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"

namespace kvlink::testing {

BareListener::BareListener(const std::string& path, double connections_per_second, int held) : address_(path) {
  if (path.empty()) {
    listening_ = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(at);
    EXPECT_EQ(bind(listening_.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
    EXPECT_EQ(getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&at), &length), 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(at.sin_port));
  } else {
    listening_ = Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_un at = {};
    at.sun_family = AF_UNIX;
    std::strncpy(at.sun_path, path.c_str(), sizeof(at.sun_path) - 1);
    EXPECT_EQ(bind(listening_.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
  }
  EXPECT_EQ(listen(listening_.get(), SOMAXCONN), 0);
  thread_ = Thread("bare listener", [this, connections_per_second, held] { Run(connections_per_second, held); });
}

BareListener::~BareListener() { stop_.store(true); }

void BareListener::Run(double connections_per_second, int held) {
  std::deque<Descriptor> open;
  const absl::Time begun = SteadyNow();
  double taken = 0;
  while (!stop_.load()) {
    absl::SleepFor(absl::Milliseconds(5));
    const double due = absl::ToDoubleSeconds(SteadyNow() - begun) * connections_per_second;
    while (taken < due) {
      Descriptor next(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (next.get() < 0) {
        taken = due;  // no connection waits; unused allowance expires
        break;
      }
      ++taken;
      open.push_back(std::move(next));
      if (static_cast<int>(open.size()) > held) open.pop_front();
    }
  }
}

}  // namespace kvlink::testing
