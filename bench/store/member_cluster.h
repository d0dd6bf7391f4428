// Shared by the parts of bench_members: nodes of this process that are members of a cluster over a real etcd, and
// encodings to store in them. Whatever fails ends the program. Not thread-safe unless it says so.
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

// The deadline of what should take milliseconds.
absl::Time Soon();
void Await(absl::string_view what, const std::function<bool()>& is);

// Encodings of one shape and the same bytes, under names that are numbers. Thread-safety: all methods.
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

// Thread-safety: any thread.
bool Has(const store::cluster::MemberNode& node, const Corpus& corpus, const Manifest& manifest);

// Of members of equal weight, kCopies of each encoding, one of them acknowledged.
class Cluster {
 public:
  // With kFirstNodes nodes. `bytes_per_second`: of the repair of each node.
  Cluster(std::string directory, int64_t bytes_per_second);

  // A node with nothing. Returns when it is a member.
  store::cluster::MemberNode* Add();
  // Until it holds what it owns.
  void AwaitActive(const store::cluster::NodeId& id) const;
  // Returns when it has left.
  void Drain(const store::cluster::NodeId& id);
  // It goes, and stays a member; its removal gives the epoch from which on it is none.
  void End(const store::cluster::NodeId& id);
  uint64_t Remove(const store::cluster::NodeId& id);
  // Every node has what it owns at the epoch.
  bool Complete(uint64_t epoch) const;

  const std::shared_ptr<store::cluster::Membership>& membership() const { return membership_; }
  // In the order in which they came.
  const std::vector<std::unique_ptr<store::cluster::MemberNode>>& nodes() const { return nodes_; }
  // Thread-safety: any thread.
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
