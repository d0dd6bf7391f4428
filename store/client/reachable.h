// Checks whether a node's address accepts connections, at once and with our own messages; gRPC would retry for seconds
// and then talk about subchannels. Thread-safety: the function.
#ifndef KVLINK_STORE_CLIENT_REACHABLE_H_
#define KVLINK_STORE_CLIENT_REACHABLE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvlink::store::client {

// Connects to "host:port" and disconnects. UNAVAILABLE: the name does not resolve, or nothing listens there.
// DEADLINE_EXCEEDED: no answer, as when packets are dropped. Both messages say what to do. OK also if that cannot be
// determined.
absl::Status CheckReachable(const std::string& address, absl::Time deadline);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_REACHABLE_H_
