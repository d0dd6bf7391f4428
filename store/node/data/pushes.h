// Pushes: the bytes of an encoding, from a writer straight into the tier's memory, then to segments.
//
// The node lays out memory (as much at a time as PushCredit says), the writer fills it, the commit carries the
// manifest. Nothing of a push is visible before it is durable; a push that is cancelled, cut off, or gets nothing for
// NodeLimits::push_progress leaves nothing.
#ifndef KVLINK_STORE_NODE_DATA_PUSHES_H_
#define KVLINK_STORE_NODE_DATA_PUSHES_H_

#include <memory>

#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

// Answers a PushBegin. REQUIRES: rights are checked; a thread that may wait.
void BeginPush(std::shared_ptr<Call> call);
// Takes in a PushCommit; answers it when the encoding is durable, or why it will not be. Does not wait.
void CommitPush(std::shared_ptr<Call> call);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PUSHES_H_
