// A transport over UCX: TCP everywhere, RDMA where UCX has it. One UCX worker, and one thread that owns it.
//
// Payloads are active messages with rendezvous, so they go from the source to the receive without a copy of ours. UCX
// reads its own environment variables (UCX_NET_DEVICES, UCX_TLS, ...).
//
// Peers that do not speak UCX are kept out (port_guard.h) and counted as "stranger".
//
// Trust: UCX does not protect a process from a peer that speaks UCX but not our protocol: over TCP it writes wherever a
// packet says, and it aborts the process on messages it does not expect. session.h's checks protect only against peers
// that run an unmodified UCX. Expose the port only to hosts trusted that far, and serve the others over gRPC.
//
// Thread-safety and lifetime as transport.h.
#ifndef KVLINK_TRANSPORT_UCX_UCX_H_
#define KVLINK_TRANSPORT_UCX_UCX_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "transport/transport.h"

namespace kvlink::transport {

// `only_at`, "host:port": UCX uses the network device with this address, and no other. Otherwise UCX's TCP listens on a
// port of its own on every device, whatever address is passed to Listen, so a process that listens should pass the
// address here too. Empty, or a wildcard address ("0.0.0.0:0"): every device. UCX_NET_DEVICES in the environment
// overrides it. INVALID_ARGUMENT (options, address), UNAVAILABLE (no device has the address, or UCX does not start),
// RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<Transport>> NewUcxTransport(const TransportOptions& options,
                                                           absl::string_view only_at = "");

struct UcxDescription {
  std::string version;                 // of the library: "1.13.1"
  std::vector<std::string> resources;  // transports and devices, "tcp/eth0"
  bool reaches_cuda = false;           // memory of NVIDIA devices
};
// What UCX can use on this machine, with the environment's settings. UNAVAILABLE: it does not start.
absl::StatusOr<UcxDescription> DescribeUcx();

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_UCX_H_
