#include "transport/address.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "base/status.h"

namespace kvlink::transport {

std::string Address::ToString() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port) : absl::StrCat("[", host, "]:", port);
}

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon != absl::string_view::npos && absl::SimpleAtoi(text.substr(colon + 1), &port) && port <= 65535) {
    absl::string_view host = text.substr(0, colon);
    const bool brackets = absl::StartsWith(host, "[") && absl::EndsWith(host, "]");
    if (brackets) host = host.substr(1, host.size() - 2);
    if (!host.empty() && (brackets || host.find(':') == absl::string_view::npos)) {
      return Address{std::string(host), static_cast<uint16_t>(port)};
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("address \"", text, "\": write host:port, or [host]:port for IPv6"));
}

Address SocketAddress::ToAddress() const {
  char host[NI_MAXHOST], port[NI_MAXSERV];
  const socklen_t known = storage.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (getnameinfo(get(), known, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return {"unknown", 0};
  }
  return {host, static_cast<uint16_t>(std::strtoul(port, nullptr, 10))};
}

absl::StatusOr<std::vector<SocketAddress>> ResolveAll(const Address& address) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
  if (error != 0) return absl::UnavailableError(absl::StrCat(address.ToString(), ": ", gai_strerror(error)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  std::vector<SocketAddress> resolved;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    resolved.emplace_back().length = one->ai_addrlen;
    std::memcpy(&resolved.back().storage, one->ai_addr, one->ai_addrlen);
  }
  return resolved;
}

absl::StatusOr<SocketAddress> Resolve(const Address& address) {
  auto all = ResolveAll(address);
  if (!all.ok()) return std::move(all).status();
  return all->front();
}

absl::StatusOr<std::string> DeviceWith(const SocketAddress& address) {
  // The bytes of the address, without port and scope.
  const auto bytes = [](const sockaddr* of) -> absl::string_view {
    if (of == nullptr) return "";
    if (of->sa_family == AF_INET) {
      return {reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in*>(of)->sin_addr), sizeof(in_addr)};
    }
    if (of->sa_family == AF_INET6) {
      return {reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in6*>(of)->sin6_addr), sizeof(in6_addr)};
    }
    return "";
  };
  const absl::string_view wanted = bytes(address.get());
  if (wanted.find_first_not_of('\0') == absl::string_view::npos) return "";
  const bool loopback = address.storage.ss_family == AF_INET && wanted[0] == 127;  // all of 127.0.0.0/8
  ifaddrs* found = nullptr;
  if (getifaddrs(&found) != 0) return absl::UnavailableError("cannot list the network devices");
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(found, freeifaddrs);
  for (const ifaddrs* device = found; device != nullptr; device = device->ifa_next) {
    if (bytes(device->ifa_addr) == wanted || (loopback && (device->ifa_flags & IFF_LOOPBACK) != 0)) {
      return std::string(device->ifa_name);
    }
  }
  return absl::UnavailableError(absl::StrCat("no network device has the address ", address.ToAddress().host));
}

bool IsLoopback(const SocketAddress& address) {
  if (address.get()->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address.get());
    return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
  }
  if (address.get()->sa_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.get());
    return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
  }
  return false;
}

}  // namespace kvlink::transport
