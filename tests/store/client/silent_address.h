// An address of this host that answers no connection, like a host that is cut off.
// Thread-safety: one thread.
#ifndef KVLINK_TESTS_STORE_CLIENT_SILENT_ADDRESS_H_
#define KVLINK_TESTS_STORE_CLIENT_SILENT_ADDRESS_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/descriptor.h"
#include "gtest/gtest.h"

namespace kvlink::testing {

// A listener with a full queue: Linux then drops connection requests.
class SilentAddress {
 public:
  SilentAddress() {
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof at;
    auto* const address = reinterpret_cast<sockaddr*>(&at);
    EXPECT_EQ(bind(listener_.get(), address, sizeof at), 0);
    EXPECT_EQ(listen(listener_.get(), 0), 0);
    EXPECT_EQ(getsockname(listener_.get(), address, &length), 0);
    port_ = ntohs(at.sin_port);
    for (int i = 0; i < 3; ++i) {
      queued_.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      connect(queued_.back().get(), address, sizeof at);
    }
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  const Descriptor listener_{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  std::vector<Descriptor> queued_;
  int port_ = 0;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLIENT_SILENT_ADDRESS_H_
