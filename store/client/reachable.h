// Whether anybody listens at a node's address, told at once and in words of ours: gRPC would try again for seconds and
// then speak of subchannels.
// Thread-safety: a function.
#ifndef KVLINK_STORE_CLIENT_REACHABLE_H_
#define KVLINK_STORE_CLIENT_REACHABLE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvlink::store::client {

// Connects to "host:port" and hangs up. UNAVAILABLE: the name does not resolve, or nobody listens there;
// DEADLINE_EXCEEDED: nothing answered, as where packets are dropped. Both say what to do. OK also where that cannot be
// found out.
absl::Status CheckReachable(const std::string& address, absl::Time deadline);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_REACHABLE_H_
