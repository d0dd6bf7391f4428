// Leases of readers that map the tier's memory (local connections): where the bytes lie, and what tells that they are
// still good. A lease ends with its release, its connection, or when the connection was silent for too long.
#ifndef KVLINK_STORE_NODE_DATA_LEASES_H_
#define KVLINK_STORE_NODE_DATA_LEASES_H_

#include <memory>

#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

// The number that stands for the table of generations where memory is shared.
inline constexpr uint32_t kGenerationsMemory = 0xFFFFFFFFu;

// Gives a client that has said hello the table of generations; the memory that its leases lie in comes with them, so
// that it has no more than it reads. UNIMPLEMENTED: the carrier has no descriptors.
absl::Status ShareMemory(ClientConnection* connection);
// Answers the call, which asks for a lease; then tells of layers as they arrive. REQUIRES: rights are checked; a thread
// that may wait.
void TakeLease(std::shared_ptr<Call> call);
// Answers the call, which is a release; the dispatcher has taken the leases back already.
void ReleaseLeases(std::shared_ptr<Call> call);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_LEASES_H_
