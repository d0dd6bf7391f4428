// The order in which the owners of an identity are asked.
//
// Thread-safety: pure functions.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_ORDER_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_ORDER_H_

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/digest.h"
#include "store/cluster/view.h"

namespace kvlink::store::cluster {

// The condition of a member, as this client has seen it.
struct Condition {
  bool resting = false;     // its breaker is not closed
  absl::Duration expected;  // time until it answers; zero: not known
  int under_way = 0;        // requests of this client in progress
};

using Owners = absl::InlinedVector<uint16_t, 4>;  // indices into members()

// The owners under the current or the next placement, each once; owners under both come first.
Owners OwnersOf(const Placement& placement, const Identity& identity);

// OwnersOf, followed by the members that hold further copies (View::FurtherHolders).
Owners HoldersOf(const View& view, const Identity& identity);

// HoldersOf, best first. In order of weight, a member is better if it does not rest; if it is alive; if it owns the
// identity now and next or holds a further copy, rather than now only, rather than next only (it may not be filled
// yet); if it is in `zone`. Among equals the order is random, weighted by how fast they answer, so that all of them
// share the load of a popular encoding. Sets `equals`, unless null, to the number of members as good as the first.
Owners OrderOfOwners(const View& view, const Identity& identity, absl::string_view zone,
                     const std::function<Condition(uint16_t)>& condition, std::minstd_rand* random,
                     int* equals = nullptr);

// Given many encodings with several equally good owners each, chooses owners so that few nodes are asked: moves one of
// the first equals[i] of orders[i] to its front. For requests that cost a node much more than their contents do.
// Prefers fast nodes, with some randomness.
void AskFewNodes(std::vector<Owners>* orders, absl::Span<const int> equals,
                 const std::function<Condition(uint16_t)>& condition, std::minstd_rand* random);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_ORDER_H_
