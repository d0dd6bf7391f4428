// Actions on many encodings: pin, unpin, touch, prefetch, remove, suspect.
#ifndef KVLINK_STORE_NODE_DATA_ACTIONS_H_
#define KVLINK_STORE_NODE_DATA_ACTIONS_H_

#include <memory>

#include "store/node/access.h"
#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

Right RightFor(proto::EncodingAction::Action action);
// Whether the action fills the store or works in the background, rather than serving a reader.
bool IsIndexing(proto::EncodingAction::Action action);
// Answers the call, which is an action. Encodings not handled before the deadline get the code DEADLINE_EXCEEDED.
// REQUIRES: rights are checked; a thread that may block.
void DoAction(std::shared_ptr<Call> call);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_ACTIONS_H_
