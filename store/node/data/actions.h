// Acts on many encodings: pin, unpin, touch, prefetch, remove, suspect.
#ifndef KVLINK_STORE_NODE_DATA_ACTIONS_H_
#define KVLINK_STORE_NODE_DATA_ACTIONS_H_

#include <memory>

#include "store/node/access.h"
#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

Right RightFor(proto::EncodingAction::Action action);
// Whether it fills the store or works in the background, rather than serving a reader.
bool IsIndexing(proto::EncodingAction::Action action);
// Answers the call, which is an action. What the deadline leaves undone gets DEADLINE_EXCEEDED as its code. REQUIRES:
// rights are checked; a thread that may wait.
void DoAction(std::shared_ptr<Call> call);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_ACTIONS_H_
