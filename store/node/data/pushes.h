// Pushes: receive an encoding's bytes from a writer directly into the tier's memory, then write them to segments.
//
// The node provides memory (as much at a time as PushCredit allows), the writer fills it, and the commit carries the
// manifest. Nothing of a push is visible before it is durable. A push that is cancelled, disconnected, or makes no
// progress for NodeLimits::push_progress leaves nothing behind.
#ifndef KVLINK_STORE_NODE_DATA_PUSHES_H_
#define KVLINK_STORE_NODE_DATA_PUSHES_H_

#include <memory>

#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

// Answers a PushBegin. REQUIRES: rights are checked; a thread that may block.
void BeginPush(std::shared_ptr<Call> call);
// Handles a PushCommit; answers it once the encoding is durable, or with the error. Does not block.
void CommitPush(std::shared_ptr<Call> call);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_PUSHES_H_
