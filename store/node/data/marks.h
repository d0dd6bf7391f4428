// Acts on many encodings: pin, unpin, touch, prefetch, remove, suspect.
#ifndef KVLINK_STORE_NODE_DATA_MARKS_H_
#define KVLINK_STORE_NODE_DATA_MARKS_H_

#include <memory>

#include "store/node/access.h"
#include "store/node/data/link.h"

namespace kvlink::store {

Right RightFor(proto::Mark::Act act);
// Whether it fills the store or works in the background, rather than serving a reader.
bool IsIndexing(proto::Mark::Act act);
// Answers the call, which is a mark. What the deadline leaves undone gets DEADLINE_EXCEEDED as its code. REQUIRES:
// rights are checked; a thread that may wait.
void DoMark(std::shared_ptr<Call> call);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_DATA_MARKS_H_
