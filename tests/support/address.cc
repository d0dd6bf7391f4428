// A port is taken for the life of the process by an abstract Unix socket of its name, which other tests cannot bind,
// too, and which ends with the process, however that ends.
#include "tests/support/address.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>

namespace kvlink::testing {
namespace {

// False: another test has taken the port.
bool Take(uint16_t port) {
  const std::string name = "kvlink-test-port-" + std::to_string(port);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::copy(name.begin(), name.end(), address.sun_path + 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool taken = bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0;
  if (!taken) close(fd);
  return taken;
}

}  // namespace

std::string UnusedAddress(const std::string& host) {
  std::random_device random;
  for (int tries = 0; tries < 100; ++tries) {
    const auto port = static_cast<uint16_t>(10000 + random() % 22000);
    if (!Take(port)) continue;
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    inet_pton(AF_INET, host.c_str(), &address.sin_addr);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool unused = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (unused) return host + ":" + std::to_string(port);
  }
  ADD_FAILURE() << "no port is free";
  return host + ":0";
}

}  // namespace kvlink::testing
