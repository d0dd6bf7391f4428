// Network addresses: "host:port", "[::1]:port". Thread-safety: pure functions, except that Resolve and ResolveAll ask
// the system and may block.
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

// INVALID_ARGUMENT: malformed. Does not resolve anything.
absl::StatusOr<Address> ParseAddress(absl::string_view text);

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  // In numeric form.
  Address ToAddress() const;
};
// Returns all addresses the system knows, preferred ones first; at least one. UNAVAILABLE: none.
absl::StatusOr<std::vector<SocketAddress>> ResolveAll(const Address& address);
// Returns the first of them.
absl::StatusOr<SocketAddress> Resolve(const Address& address);

// Whether the address is reachable only from this host.
bool IsLoopback(const SocketAddress& address);

// Returns the name of the network device that has the address, or "" for a wildcard address. UNAVAILABLE: no device has
// it.
absl::StatusOr<std::string> DeviceWith(const SocketAddress& address);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_ADDRESS_H_
