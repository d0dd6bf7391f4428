// Handles requests of the data path, over any carrier: parses and checks them, then answers at once or passes them to a
// lane.
//
// Checks, in this order: the message, the client's identity (Hello), the incarnation, the rights on the namespace, the
// limits, the deadline. An unreadable message closes the connection; everything else is answered. Ownership is checked
// last, by each request itself: the node serves what it has, whoever owns it.
//
// Thread-safety: any thread, one call at a time per connection. OnMessage returns within a fraction of a millisecond.
#ifndef KVLINK_STORE_NODE_DATA_DISPATCHER_H_
#define KVLINK_STORE_NODE_DATA_DISPATCHER_H_

#include <memory>

#include "absl/strings/string_view.h"
#include "store/node/data/client_connection.h"

namespace kvlink::store::node {

void Dispatch(const std::shared_ptr<ClientConnection>& connection, absl::string_view message);

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_DISPATCHER_H_
