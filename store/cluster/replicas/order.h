// In which order the owners of an identity are asked.
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

// Of a member, what this client has seen.
struct Condition {
  bool resting = false;     // its breaker is not closed
  absl::Duration expected;  // until it answers; zero: not known
  int under_way = 0;        // requests of this client
};

using Owners = absl::InlinedVector<uint16_t, 4>;  // indices into members()

// The owners under the current or the next placement, each once, those under both first.
Owners OwnersOf(const Placement& placement, const Identity& identity);

// OwnersOf, followed by the members that hold further copies (View::FurtherHolders).
Owners HoldersOf(const View& view, const Identity& identity);

// HoldersOf, the best to ask first: those that do not rest, that are alive, that own it now and next or hold a further
// copy, then now, then next (such a one may not be filled yet), that are in `zone`. Among equals the choice is random,
// in proportion to how fast they answer, so that all of them share the load of an encoding that many want. `equals`,
// unless null: how many of the first are as good as the first.
Owners OrderOfOwners(const View& view, const Identity& identity, absl::string_view zone,
                     const std::function<Condition(uint16_t)>& condition, std::minstd_rand* random,
                     int* equals = nullptr);

// Where several owners are equally good for each of many encodings, chooses those that are so for the most of them, so
// that few nodes are asked: moves one of the first equals[i] of orders[i] to its front. For requests that cost a node
// much more than what is asked in them. Fast nodes, and by chance any, are preferred to others.
void AskFewNodes(std::vector<Owners>* orders, absl::Span<const int> equals,
                 const std::function<Condition(uint16_t)>& condition, std::minstd_rand* random);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_ORDER_H_
