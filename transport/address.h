// "host:port", "[::1]:port". Thread-safety: pure functions, but that Resolve asks the system and may wait.
#ifndef KVLINK_TRANSPORT_ADDRESS_H_
#define KVLINK_TRANSPORT_ADDRESS_H_

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::transport {

struct Address {
  std::string host;  // without brackets
  uint16_t port = 0;
  std::string ToString() const;
};

// INVALID_ARGUMENT. Does not resolve anything.
absl::StatusOr<Address> ParseAddress(absl::string_view text);

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  // Numeric.
  Address ToAddress() const;
};
// All that the system knows, the preferred first; at least one. UNAVAILABLE.
absl::StatusOr<std::vector<SocketAddress>> ResolveAll(const Address& address);
// The first of them.
absl::StatusOr<SocketAddress> Resolve(const Address& address);

// Whether only this host reaches it.
bool IsLoopback(const SocketAddress& address);

// The name of the network device that has the address; empty for an address that stands for all. UNAVAILABLE: none has.
absl::StatusOr<std::string> DeviceWith(const SocketAddress& address);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_ADDRESS_H_
