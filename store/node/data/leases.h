// Leases for readers that map the tier's memory (local connections): where the bytes lie, and how to tell that they are
// still valid. A lease ends when it is released, with its connection, or when the connection was silent for too long.
#ifndef KVLINK_STORE_NODE_DATA_LEASES_H_
#define KVLINK_STORE_NODE_DATA_LEASES_H_

#include <memory>

#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

// The memory number of the table of generations.
inline constexpr uint32_t kGenerationsMemory = 0xFFFFFFFFu;

// Sends a client that has said hello the table of generations. The memory of its leases is sent with them, so that a
// client can map no more than it reads. UNIMPLEMENTED: the carrier cannot send descriptors.
absl::Status ShareMemory(ClientConnection* connection);
// Answers the call, which requests a lease; then reports layers as they arrive. REQUIRES: rights are checked; a thread
// that may block.
void TakeLease(std::shared_ptr<Call> call);
// Answers the call, which is a release; the dispatcher has already released the leases.
void ReleaseLeases(std::shared_ptr<Call> call);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_LEASES_H_
