// The Store interface over all nodes of a cluster. Every encoding is on several nodes, its owners under the placement
// of the present view; the catalog is a database. Semantics and statuses are those of store.h, with these differences:
//   - Lookup and reads ask one owner, and the others if it lacks the encoding, does not answer, or gives no sign for
//     250 ms. An encoding that no answering owner has is a miss: `present` false, NOT_FOUND. UNAVAILABLE means that no
//     node of the cluster can be reached, or that it has no members; UNAUTHENTICATED and PERMISSION_DENIED that no
//     other node answered.
//   - Reads of a document are spread over its owners and, while it is hot, over the further members that hold copies of
//     it. If a node stops in the middle of a lease, the lease continues at the next owner under the same etag; it fails
//     when the last owner has.
//   - A node that has failed several times in a row rests, and no call waits for it meanwhile: for all work if it
//     answers no lookups, else for reads or puts alone, whose disk may hang. It is probed with requests of that kind
//     that are sent to other nodes as well, and asked briefly if no other owner answers.
//   - Put is sent to all owners under the next placement at once, and acknowledged when as many copies are durable as
//     the cluster asks for (ClusterSettings::acknowledged). The other copies continue for at most 30 s: in the
//     background or, if that would take too much memory, while the caller waits and their nodes take its bytes. Copies
//     that fail are counted as lacking; their owners repair them. UNAVAILABLE, naming the nodes: too few owners can be
//     written to; copies that were written stay. If owners answer that they have another etag, this counts as a copy of
//     the encoding, and the result has the greatest etag of all answers (kOtherThere unless it is the put's own): this
//     one stays once the owners have compared, and until then either may be found.
//   - Pin pins every copy that can be reached, and is OK if there is one. Pins belong to the sessions with the nodes; a
//     copy made later is not pinned. Remove needs every owner and every member with a further copy: UNAVAILABLE, naming
//     those that may still have theirs.
//   - Stats are summed over the nodes that answer, counting every copy; UNAVAILABLE if none answers. ListEncodings
//     lists each encoding once, of differing copies the one with the greatest etag; UNAVAILABLE if so many nodes fail
//     to answer that an acknowledged encoding may be missing. Verify reads every copy on every node, all nodes at the
//     same time; a node that does not answer is one of its index_problems.
//   - The catalog is the one given. DeleteNamespace also makes the nodes delete what they hold of the namespace, and
//     adds their copies to the catalog's count; as for every deletion, unreachable nodes remove theirs when they are
//     back.
//
// Thread-safety: all methods. Lifetime: leases and buffers must be released before the store; the destructor waits for
// puts in the background (30 s at most).
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
  // Options of the store over each node: key, TLS, carrier, name, times. Address, node id, placement, resources and
  // patience are set here. Call client::CheckTls first: a store over a node is opened by the first request to it, which
  // would else be the one that reads the TLS files.
  client::RemoteOptions node;
  client::ResourceOptions resources;  // shared by all nodes
  std::string zone;                   // of this process; owners in it are asked first
  // How long lookups and reads wait for owners that give no sign, when no other owner is left to ask.
  absl::Duration patience = absl::Seconds(3);
  // The most bytes copied at a time so that puts can continue after their acknowledgement.
  int64_t max_rest_bytes = int64_t{256} << 20;
  // Adds the catalog's counts, of documents, to Stats. May be empty.
  std::function<absl::Status(StoreStats* stats)> add_catalog_stats;
};

// Counts since the store was opened.
struct ReplicatedCounters {
  int64_t lookups = 0;          // identities
  int64_t lookup_requests = 0;  // to nodes
  int64_t reads = 0;            // encodings
  int64_t read_requests = 0;    // to nodes
  int64_t next_owners = 0;      // encodings asked of another owner
  int64_t stuck = 0;            // times a node gave no sign for 250 ms, in a request or in the middle of an encoding
  int64_t hedges = 0;           // requests sent to other owners before that
  int64_t moved = 0;            // answers that the node does not own the encoding
  int64_t changed_owner = 0;    // leases that continued at another owner
  int64_t probes = 0;           // requests to resting nodes
  int64_t puts = 0;
  int64_t failed_puts = 0;
  int64_t lacking = 0;       // copies that were not written, of any puts
  int64_t copied_bytes = 0;  // copied so that puts could continue after their acknowledgement
};

// A member as this client sees it.
struct NodeReport {
  Member member;
  MemberStatus status;
  bool resting = false;  // failed several times in a row in some kind of work
  absl::StatusOr<StoreStats> stats;
};

// The sum over the nodes that answered; `io` names the others. Namespaces are in order of name.
StoreStats SumOf(const std::vector<NodeReport>& nodes);

class ReplicatedStore : public Store {
 public:
  virtual ReplicatedCounters Counters() const = 0;
  // Counters of the stores that were opened, in order of node id.
  virtual std::vector<client::RemoteCounters> NodeCounters() const = 0;
  // All members, in order of node id. Asks them at the same time.
  virtual std::vector<NodeReport> Nodes() = 0;
};

// Does not connect. INVALID_ARGUMENT: `patience` is not positive.
absl::StatusOr<std::unique_ptr<ReplicatedStore>> OpenReplicated(std::shared_ptr<ViewSource> source,
                                                                std::shared_ptr<DocumentCatalog> catalog,
                                                                const ReplicatedOptions& options);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_REPLICATED_H_
