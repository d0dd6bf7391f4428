// A transport within one process: its connections lead to other transports on the same network object. Only for tests.
// Every transport has its own thread; a payload is copied once.
//
// Thread-safety and lifetime as transport.h.
#ifndef KVLINK_TESTS_SUPPORT_TRANSPORT_LOOPBACK_LOOPBACK_H_
#define KVLINK_TESTS_SUPPORT_TRANSPORT_LOOPBACK_LOOPBACK_H_

#include <memory>

#include "absl/status/statusor.h"
#include "transport/transport.h"

namespace kvlink::transport {

// Resolves addresses. Shared by the transports on it.
class LoopbackNetwork;
std::shared_ptr<LoopbackNetwork> NewLoopbackNetwork();

// RESOURCE_EXHAUSTED: no file descriptors.
absl::StatusOr<std::unique_ptr<Transport>> NewLoopbackTransport(std::shared_ptr<LoopbackNetwork> network,
                                                                const TransportOptions& options);

}  // namespace kvlink::transport

#endif  // KVLINK_TESTS_SUPPORT_TRANSPORT_LOOPBACK_LOOPBACK_H_
