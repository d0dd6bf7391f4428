// Resources that a process needs only once, for any number of nodes: transports, receive and send memory, threads, and
// the retry budget. Passed to each store in RemoteOptions::resources; a store without them makes its own.
//
// Thread-safety: all functions. Ownership: shared by the stores and by leases; leases and slab memory keep alive what
// they need.
#ifndef KVLINK_STORE_CLIENT_RESOURCES_H_
#define KVLINK_STORE_CLIENT_RESOURCES_H_

#include <cstdint>
#include <memory>

#include "absl/time/time.h"

namespace kvlink::store::client {

struct ResourceOptions {
  // Limits, per transport, of registered, prefaulted memory. It grows on demand and is released after `idle_memory`
  // without use. Read returns RESOURCE_EXHAUSTED when leases, of any nodes, fill the receive memory; Put returns
  // INVALID_ARGUMENT for a slab that is larger than the send memory, and not in memory of AllocateSlabs.
  int64_t receive_bytes = int64_t{256} << 20;
  int64_t sending_bytes = int64_t{64} << 20;
  absl::Duration idle_memory = absl::Seconds(10);
  // Nodes that two-step requests dial at a time, one thread each; more wait. A node that does not answer at all
  // occupies a thread for as long as an attempt to connect lasts, so there should be more threads than nodes expected
  // to vanish together.
  int dials = 16;
  // Two-step puts carried out at a time, for all nodes, one thread each, started with the first; more wait.
  int puts = 16;
  // Added to the niceness of these threads, for work that readers do not wait for. Not to that of a transport which
  // this process already has.
  int nice = 0;
};

class ClientResources;

// Starts threads. REQUIRES: all options are positive.
std::shared_ptr<ClientResources> NewClientResources(const ResourceOptions& options);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_RESOURCES_H_
