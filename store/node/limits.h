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

  // Identified connections of the data path, over all carriers; each key has its share (quota.h).
  int connections = 4096;
  // A connection that is not identified within this time is closed; so is one whose session ended this long ago.
  absl::Duration hello_within = absl::Seconds(10);
  int unidentified = 256;  // unidentified connections; beyond, the longest silent is closed. Also for connections to
                           // the control service (strangers.h)
  int requests = 16384;    // waiting or running
  int64_t request_bytes = int64_t{256} << 20;
  int requests_per_connection = 1024;  // waiting or running at a time, except pulls and pushes
  int pulls_per_connection = 64, pulls = 4096;
  int pushes_per_connection = 32, pushes = 256;
  int leases_per_connection = 4096, leases = 65536;
  absl::Duration receive_within = absl::Seconds(10);  // ends a pull whose payload the client makes no room for
  // Bytes of answers a client has not taken: beyond the first limit its requests are not read; the second is for all
  // clients together.
  int64_t answer_bytes_per_connection = int64_t{1} << 20, answer_bytes = int64_t{64} << 20;
  absl::Duration push_progress = absl::Seconds(30);  // a push without progress for this long is dropped
  absl::Duration lease = absl::Seconds(10);          // a local connection silent for this long loses its leases
  absl::Duration longest_request = absl::Minutes(10);
  absl::Duration unnamed_deadline = absl::Seconds(30);  // of requests that name no deadline

  // Payload bytes of pulls in flight on a connection: of the key that goes first, and of the others beside it
  // (pull_credit.h).
  int64_t pull_bytes = int64_t{4} << 20, pull_bytes_behind = int64_t{256} << 10;
  absl::Duration pull_half_life = absl::Milliseconds(100);  // of the byte counts that order the keys

  // Payload bytes of pushes in flight at a time: alone, and while pulls are served.
  int64_t push_bytes = int64_t{64} << 20, push_bytes_beside_pulls = int64_t{1} << 20;
  absl::Duration push_yields = absl::Milliseconds(100);  // how long after a pull pushes still give way
  int64_t manifest_bytes = int64_t{256} << 20;           // of all pushes not yet committed

  absl::Duration read_rates_half_life = absl::Seconds(2);  // of the rates by encoding (read_rates.h)

  int serving_threads = 2, indexing_threads = 2;
  int serving_queue = 2048, indexing_queue = 512, checking_queue = 64;
  absl::Duration suspect_again = absl::Minutes(10);  // an encoding checked within this time is not checked again

  int namespaces = 4096;                              // known to the node; each key has its share of those it created
  absl::Duration namespace_idle = absl::Minutes(10);  // an empty namespace without writers is forgotten after this time

  // One part in this many of shared resources is reserved for administrators.
  int administrators_part = 16;

  // Calls of the control service: those waiting with their message unread, and those being read, executed and answered.
  // The `reserved` ones are additional, for administrators, who also have a thread of their own.
  int control_calls = 1024, control_calls_reserved = 64, control_calls_per_grant = 512, control_calls_per_session = 128;
  int control_active = 24, control_active_reserved = 8, control_active_per_grant = 8;
  int control_threads = 4;
  absl::Duration control_wait = absl::Seconds(30);     // for a turn
  absl::Duration control_receive = absl::Seconds(10);  // then for the message
  absl::Duration control_run = absl::Minutes(2);       // except streams
  absl::Duration control_answer = absl::Seconds(10);   // until the peer has taken an answer, or a stream's message
  int control_waiting = 1024;                          // connections not yet passed to gRPC, in a crowd
  int64_t control_bytes = int64_t{64} << 20;           // max memory of gRPC
  int64_t control_message_bytes = int64_t{4} << 20;    // per message
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_LIMITS_H_
