// Reports what the node has in each slot, to nodes that compare themselves with it.
#ifndef KVLINK_STORE_NODE_DATA_SLOTS_H_
#define KVLINK_STORE_NODE_DATA_SLOTS_H_

#include <memory>

#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

// Answer the call, from memory. REQUIRES: rights are checked; the call is of this kind.
void GiveSlotDigests(std::shared_ptr<Call> call);
void ListSlot(std::shared_ptr<Call> call);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_SLOTS_H_
