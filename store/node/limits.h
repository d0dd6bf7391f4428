// Limits on a node's clients: amounts and times. Thread-safety: a plain value.
#ifndef KVLINK_STORE_NODE_LIMITS_H_
#define KVLINK_STORE_NODE_LIMITS_H_

#include <cstdint>

#include "absl/time/time.h"

namespace kvlink::store::node {

struct NodeLimits {
  int sessions = 8192, sessions_per_grant = 2048;
  int sessions_reserved = 64;  // beyond `sessions`, for administrators
  absl::Duration session_lifetime = absl::Minutes(10);

  // Of the data path, all carriers together, those that have said who they are; a key has its share (quota.h).
  int connections = 4096;
  // A connection that has not said who it is by then is closed; so is one whose session ended so long ago.
  absl::Duration hello_within = absl::Seconds(10);
  int unidentified = 256;  // of those; when one more comes, the one that has been silent longest goes. Also of the
                           // connections to the control service (strangers.h)
  int requests = 16384;    // that wait or run
  int64_t request_bytes = int64_t{256} << 20;
  int requests_per_connection = 1024;  // that wait or run at a time, pulls and pushes aside
  int pulls_per_connection = 64, pulls = 4096;
  int pushes_per_connection = 32, pushes = 256;
  int leases_per_connection = 4096, leases = 65536;
  absl::Duration receive_within = absl::Seconds(10);  // a pull for a payload of which nobody makes room is ended
  // Answers that a client has not taken: with so many, its requests are not read; of all clients together.
  int64_t answer_bytes_per_connection = int64_t{1} << 20, answer_bytes = int64_t{64} << 20;
  absl::Duration push_progress = absl::Seconds(30);  // a push that gets nothing for so long is dropped
  absl::Duration lease = absl::Seconds(10);          // a local connection silent for so long loses its leases
  absl::Duration longest_request = absl::Minutes(10);
  absl::Duration unnamed_deadline = absl::Seconds(30);  // of requests that name none

  // Payload bytes of pulls in flight on a connection: of the key that goes first, and of others beside it
  // (pull_credit.h).
  int64_t pull_bytes = int64_t{4} << 20, pull_bytes_behind = int64_t{256} << 10;
  absl::Duration pull_half_life = absl::Milliseconds(100);  // of the bytes by which keys are ordered

  // Payload bytes of pushes that may be on their way at a time: alone, and while pulls are served.
  int64_t push_bytes = int64_t{64} << 20, push_bytes_beside_pulls = int64_t{1} << 20;
  absl::Duration push_yields = absl::Milliseconds(100);  // for how long after a pull pushes still give way
  int64_t manifest_bytes = int64_t{256} << 20;           // of pushes, not yet committed, together

  absl::Duration read_rates_half_life = absl::Seconds(2);  // of how much each encoding is read (read_rates.h)

  int serving_threads = 2, indexing_threads = 2;
  int serving_queue = 2048, indexing_queue = 512, checking_queue = 64;
  absl::Duration suspect_again = absl::Minutes(10);  // an encoding that was looked at is not looked at before

  int namespaces = 4096;                              // that the node knows; a key has its share of those that it made
  absl::Duration namespace_idle = absl::Minutes(10);  // one in which nothing is, and nobody writes, is then forgotten

  // One part in so many of what is shared is for administrators alone.
  int administrators_part = 16;

  // Calls of the control service: those that wait with their message unread, and those that are read, carried out and
  // answered. `reserved` are beyond, for administrators, who have a thread of their own as well.
  int control_calls = 1024, control_calls_reserved = 64, control_calls_per_grant = 512, control_calls_per_session = 128;
  int control_active = 24, control_active_reserved = 8, control_active_per_grant = 8;
  int control_threads = 4;
  absl::Duration control_wait = absl::Seconds(30);     // for a turn
  absl::Duration control_receive = absl::Seconds(10);  // for the message, then
  absl::Duration control_run = absl::Minutes(2);       // streams aside
  absl::Duration control_answer = absl::Seconds(10);   // until the peer has taken an answer, or a message of a stream
  int control_waiting = 1024;                          // connections that gRPC has not got yet, in a crowd
  int64_t control_bytes = int64_t{64} << 20;           // most memory of gRPC
  int64_t control_message_bytes = int64_t{4} << 20;    // of one message
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_LIMITS_H_
