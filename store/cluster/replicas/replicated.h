// The Store interface over all nodes of a cluster: every encoding is on several nodes, its owners by the placement of
// the present view, and the catalog is a database. Semantics and statuses are those of store.h; what differs:
//   - Lookup and the reads ask one owner, and the others where it does not have the encoding, does not answer, or gives
//     no sign for 250 ms. What no owner that answers has is a miss: `present` false, NOT_FOUND. UNAVAILABLE only where
//     no node of the cluster can be reached, or it has no members; UNAUTHENTICATED and PERMISSION_DENIED where nobody
//     else answered.
//   - Of a document that many want, reads are spread over its owners, and over the further members that hold copies of
//     it while it is hot. A lease goes on at the next owner, under the same etag, where the first stops in the middle;
//     it fails when the last has.
//   - A node that has failed several times in a row rests, and nobody waits for it meanwhile: with everything if it
//     answers no lookups, else with reads or puts alone, whose disk may hang. It is tried by requests of that kind that
//     are sent to others as well, and briefly by those that no other owner answers.
//   - Put is sent to all owners under the next placement at once, and acknowledged when as many copies are durable as
//     the cluster asks for (ClusterSettings::acknowledged). The others go on for at most 30 s: in the background, or
//     where that would take too much memory, while the caller waits and they take its bytes. They are counted as
//     lacking where they fail: their owners repair that. UNAVAILABLE, naming the nodes: too few owners can be written
//     to; copies that were written stay. Where owners answer that they have another etag, that counts as a copy of the
//     encoding, and the greatest etag of all answers is the result's (kOtherThere unless it is the put's own): it is
//     the one that stays when owners have compared, and until then either may be found.
//   - Pin pins every copy that can be reached, and is OK if there is one. Pins belong to the sessions with the nodes;
//     a copy that is made later is not pinned. Remove needs every owner, and whoever holds a further copy: UNAVAILABLE,
//     naming those that may have kept theirs.
//   - Stats are summed over the nodes that answer, copies and all; UNAVAILABLE if none does. ListEncodings names each
//     encoding once, of differing copies the one with the greatest etag; UNAVAILABLE where so many nodes are away that
//     something acknowledged may be missing. Verify reads every copy on every node, side by side; a node that does not
//     answer is one of its index_problems.
//   - The catalog is the one given. DeleteNamespace has the nodes delete what they hold of it, too, and adds their
//     copies to what the catalog counts; nodes that are away remove theirs when they are back, as for every deletion.
//
// Thread-safety: all methods. Lifetime: leases and buffers are released before the store; the destructor waits for puts
// in the background (30 s at most).
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_REPLICATED_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_REPLICATED_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "store/client/remote.h"
#include "store/client/resources.h"
#include "store/cluster/view.h"
#include "store/store.h"

namespace kvlink::store::cluster {

struct ReplicatedOptions {
  // Of the store over each node: key, TLS, carrier, name, times. Address, node id, placement, resources and patience
  // are this store's to say.
  client::RemoteOptions node;
  client::ResourceOptions resources;  // for all nodes together
  std::string zone;                   // of this process: owners in it are asked before others
  // How long lookups and reads wait for owners that give no sign, when nobody else is left to ask.
  absl::Duration patience = absl::Seconds(3);
  // Copies of what is put, so that it can go on after its acknowledgement: so many bytes at a time, at most.
  int64_t max_rest_bytes = int64_t{256} << 20;
  // Adds to Stats what the catalog counts: documents. May be empty.
  std::function<absl::Status(StoreStats* stats)> add_catalog_stats;
};

// Since the store was opened.
struct ReplicatedCounters {
  int64_t lookups = 0;          // identities
  int64_t lookup_requests = 0;  // to nodes
  int64_t reads = 0;            // encodings
  int64_t read_requests = 0;    // to nodes
  int64_t next_owners = 0;      // encodings that were asked of a further owner
  int64_t stuck = 0;            // nodes that gave no sign for 250 ms, in a request or in the middle of an encoding
  int64_t hedges = 0;           // requests that were sent to further owners before that
  int64_t moved = 0;            // answers that the node does not own it
  int64_t changed_owner = 0;    // leases that went on at another owner
  int64_t probes = 0;           // of nodes that rest
  int64_t puts = 0;
  int64_t failed_puts = 0;
  int64_t lacking = 0;       // copies that were not written, of puts that were acknowledged or not
  int64_t copied_bytes = 0;  // of puts that could go on after their acknowledgement
};

// One member, as this client sees it.
struct NodeReport {
  Member member;
  MemberStatus status;
  bool resting = false;  // it has failed several times in a row, in work of some kind
  absl::StatusOr<StoreStats> stats;
};

// The sum over the nodes that answered; `io` names the others. Namespaces are in order of name.
StoreStats SumOf(const std::vector<NodeReport>& nodes);

class ReplicatedStore : public Store {
 public:
  virtual ReplicatedCounters Counters() const = 0;
  // Of the store over each node that was opened, in the order of their node ids.
  virtual std::vector<client::RemoteCounters> NodeCounters() const = 0;
  // All members, in the order of their node ids. Asks them side by side.
  virtual std::vector<NodeReport> Nodes() = 0;
};

// Reaches for nobody. INVALID_ARGUMENT: options that are wrong for every node.
absl::StatusOr<std::unique_ptr<ReplicatedStore>> OpenReplicated(std::shared_ptr<ViewSource> source,
                                                                std::shared_ptr<DocumentCatalog> catalog,
                                                                const ReplicatedOptions& options);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_REPLICATED_H_
