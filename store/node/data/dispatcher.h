// Requests of the data path, whatever carries them: parsed, checked, and answered at once or handed to a lane.
//
// Order of the checks: the message, who speaks (Hello), the incarnation, rights over the namespace, the limits, the
// deadline. A message that cannot be read ends the connection; everything else is answered. Who owns what is asked for
// is looked at last, by each request for itself: what is here is served, whoever owns it.
//
// Thread-safety: any thread, for one connection one at a time. OnMessage returns within a fraction of a millisecond.
#ifndef KVLINK_STORE_NODE_DATA_DISPATCHER_H_
#define KVLINK_STORE_NODE_DATA_DISPATCHER_H_

#include <memory>

#include "absl/strings/string_view.h"
#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

void Dispatch(const std::shared_ptr<ClientConnection>& connection, absl::string_view message);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_DISPATCHER_H_
