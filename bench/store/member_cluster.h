// Shared by the parts of bench_members: nodes in this process that are members of a cluster over a real etcd, and the
// encodings stored in them. Any failure ends the program. Not thread-safe unless stated.
#ifndef KVLINK_BENCH_STORE_MEMBER_CLUSTER_H_
#define KVLINK_BENCH_STORE_MEMBER_CLUSTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "bench/bench_common.h"
#include "proto/manifest.h"
#include "store/cluster/members/membership.h"
#include "store/cluster/node/member_node.h"
#include "tests/support/etcd_cluster.h"

namespace kvlink::bench::members {

inline constexpr int kFirstNodes = 3, kCopies = 2;
inline constexpr int64_t kLayers = 2;

// A deadline for operations that normally take milliseconds.
absl::Time Soon();
// Polls until `is` holds. `what` is for the message if it never does.
void Await(absl::string_view what, const std::function<bool()>& is);

// Encodings of one shape with the same bytes, named by numbers. Thread-safety: all methods.
class Corpus {
 public:
  Corpus(std::string ns, const SlabShape& shape);
  const std::string& ns() const { return ns_; }
  absl::Span<const absl::Span<const std::byte>> spans() const { return spans_; }
  int64_t encoding_bytes() const { return manifest_.bytes(); }
  Manifest Named(int number) const;

 private:
  const std::string ns_;
  const Memory slab_;
  Manifest manifest_;
  std::vector<absl::Span<const std::byte>> spans_;
};

// Thread-safe.
bool Has(const store::cluster::MemberNode& node, const Corpus& corpus, const Manifest& manifest);

// Members of equal weight keep kCopies of each encoding; a write is acknowledged with one.
class Cluster {
 public:
  // Starts kFirstNodes nodes. `bytes_per_second`: the repair limit of each node.
  Cluster(std::string directory, int64_t bytes_per_second);

  // Starts an empty node. Returns when it is a member.
  store::cluster::MemberNode* Add();
  // Waits until the member holds what it owns.
  void AwaitActive(const store::cluster::NodeId& id) const;
  // Returns when the node has left the cluster.
  void Drain(const store::cluster::NodeId& id);
  // Stops a node, which stays a member until Remove; that returns the epoch of the placement without it.
  void End(const store::cluster::NodeId& id);
  uint64_t Remove(const store::cluster::NodeId& id);
  // Whether every node holds what it owns at the epoch.
  bool Complete(uint64_t epoch) const;

  // Of etcd.
  std::string endpoints() const { return etcd_.endpoints(); }
  const std::shared_ptr<store::cluster::Membership>& membership() const { return membership_; }
  // In the order of Add.
  const std::vector<std::unique_ptr<store::cluster::MemberNode>>& nodes() const { return nodes_; }
  // Thread-safe.
  bool Owns(const store::cluster::MemberNode& node, const Identity& identity) const;

 private:
  store::cluster::ClusterAddress address() const;

  const std::string directory_;
  const int64_t bytes_per_second_;
  const testing::EtcdCluster etcd_;
  std::shared_ptr<store::cluster::Membership> membership_;
  int added_ = 0;
  std::vector<std::unique_ptr<store::cluster::MemberNode>> nodes_;
};

}  // namespace kvlink::bench::members

#endif  // KVLINK_BENCH_STORE_MEMBER_CLUSTER_H_
