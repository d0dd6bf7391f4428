// What a node allows its clients, and how long. Thread-safety: a plain value.
#ifndef KVLINK_STORE_NODE_LIMITS_H_
#define KVLINK_STORE_NODE_LIMITS_H_

#include <cstdint>

#include "absl/time/time.h"

namespace kvlink::store {

struct NodeLimits {
  int sessions = 8192;
  absl::Duration session_lifetime = absl::Minutes(10);

  int connections = 4096;                           // of the data path, all carriers together
  absl::Duration hello_within = absl::Seconds(10);  // a connection that has not said who it is by then is closed
  int requests_per_connection = 1024;               // that wait or run at a time, pulls and pushes aside
  int pulls_per_connection = 64, pulls = 4096;
  int pushes_per_connection = 32, pushes = 256;
  int leases_per_connection = 4096;
  absl::Duration push_progress = absl::Seconds(30);  // a push that gets nothing for so long is dropped
  absl::Duration lease = absl::Seconds(10);          // a local connection silent for so long loses its leases
  absl::Duration longest_request = absl::Minutes(10);
  absl::Duration unnamed_deadline = absl::Seconds(30);  // of requests that name none

  // Payload bytes of pushes that may be on their way at a time: alone, and while pulls are served.
  int64_t push_bytes = int64_t{64} << 20, push_bytes_beside_pulls = int64_t{1} << 20;
  absl::Duration push_yields = absl::Milliseconds(100);  // for how long after a pull pushes still give way
  int64_t manifest_bytes = int64_t{256} << 20;           // of pushes, not yet committed, together

  int serving_threads = 2, indexing_threads = 2;
  int serving_queue = 2048, indexing_queue = 512;

  int control_threads = 16;                            // most that gRPC takes for calls
  int64_t control_bytes = int64_t{512} << 20;          // most memory of gRPC
  int64_t control_message_bytes = int64_t{136} << 20;  // of one call; a catalog entry has up to 128 MiB
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_LIMITS_H_
