// What a process has once, however many nodes it talks to: transports, receive and sending memory, threads, and the
// budget of retries. Given to each store by RemoteOptions::resources; a store without them makes its own.
//
// Thread-safety: all functions. Ownership: shared by the stores and by leases; leases and slab memory hold what they
// need of it.
#ifndef KVLINK_STORE_CLIENT_RESOURCES_H_
#define KVLINK_STORE_CLIENT_RESOURCES_H_

#include <cstdint>
#include <memory>

#include "absl/time/time.h"

namespace kvlink::store::client {

struct ResourceOptions {
  // Bounds, for each transport, of registered, prefaulted memory, which grows with need and is given back when nobody
  // has used it for `idle_memory`. Read gives RESOURCE_EXHAUSTED when leases of any node fill the receive memory. An
  // encoding's largest slab must fit into the sending memory.
  int64_t receive_bytes = int64_t{256} << 20;
  int64_t sending_bytes = int64_t{64} << 20;
  absl::Duration idle_memory = absl::Seconds(10);
  // Nodes that are connected to at a time by requests in two steps; more wait. Each is a thread. A node that
  // does not answer at all holds one for as long as an attempt to connect lasts: so there are more of them than nodes
  // that are expected to vanish together.
  int dials = 16;
  // Puts in two steps that are carried out at a time, of all nodes; more wait. Each is a thread, once there was one.
  int puts = 16;
};

class ClientResources;

// Starts threads. REQUIRES: all options are positive.
std::shared_ptr<ClientResources> NewClientResources(const ResourceOptions& options);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_RESOURCES_H_
