// Asks a node, over a connection, what it has in each slot.
//
// Thread-safety: stateless functions on a thread-safe connection.
#ifndef KVLINK_STORE_CLIENT_SLOTS_H_
#define KVLINK_STORE_CLIENT_SLOTS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/slots.h"
#include "store/client/data/node_connection.h"

namespace kvlink::store::client {

// As the RemoteStore methods of these names; errors as NodeConnection::Call. UNAVAILABLE: the node's answer does not
// match the request.
absl::StatusOr<std::vector<SlotDigest>> AskSlotDigests(NodeConnection* connection, absl::Span<const uint16_t> slots,
                                                       absl::Time deadline);
absl::StatusOr<SlotListing> AskSlot(NodeConnection* connection, int slot, const std::optional<SlotEntry>& after,
                                    absl::Time deadline);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_SLOTS_H_
