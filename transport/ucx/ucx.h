// A transport over UCX: tcp everywhere, RDMA where UCX has it. One UCX worker and one thread that owns it.
//
// Payloads are active messages with rendezvous, so they go from the source into the receive without a copy of ours. UCX
// reads its own environment (UCX_NET_DEVICES, UCX_TLS, ...).
//
// Peers that do not speak UCX are kept away (port_guard.h), and counted as "stranger".
//
// Trust: UCX itself does not protect a process from a peer that speaks UCX but not our protocol: its tcp writes
// wherever a peer's packet says, and it ends the process on messages that it does not expect. What session.h refuses,
// it refuses to peers that run UCX as it is. Give the port to hosts that may be trusted so far, and carry the others'
// frames over gRPC.
//
// Thread-safety and lifetime as transport.h.
#ifndef KVLINK_TRANSPORT_UCX_UCX_H_
#define KVLINK_TRANSPORT_UCX_UCX_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "transport/transport.h"

namespace kvlink::transport {

// `only_at`, "host:port": UCX uses the network device that has this address, and no other. Without, UCX's tcp listens
// at a port of its own on every device, whatever Listen was told; so whoever listens names the address here too. Empty,
// or an address that stands for all ("0.0.0.0:0"): every device. UCX_NET_DEVICES in the environment goes before it.
// INVALID_ARGUMENT (options, address), UNAVAILABLE (no device has the address, or UCX does not start here),
// RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<Transport>> NewUcxTransport(const TransportOptions& options,
                                                           absl::string_view only_at = "");

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_UCX_H_
