// Decides which encodings of a node are hot, and how many further copies of each the node wants (store/cluster/hot.h).
//
// Hot is what takes both more bytes a second of the node than one encoding should, and a considerable part of all that
// is pulled from it: a node that many encodings keep busy is helped by more nodes, not by more copies. The copies are
// as many as bring each holder below the limit again, if all are asked alike; they become more only when the rates show
// what the last ones came to, and fewer only when half the limit would do for a while. So a rate at either edge changes
// nothing.
//
// Thread-safety: by one thread. Times are of SteadyNow().
#ifndef KVLINK_STORE_CLUSTER_NODE_HOT_POLICY_H_
#define KVLINK_STORE_CLUSTER_NODE_HOT_POLICY_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/time/time.h"
#include "store/cluster/hot.h"
#include "store/cluster/view.h"
#include "store/node/read_rates.h"

namespace kvlink::store::cluster {

struct HotOptions {
  int64_t bytes_per_second = int64_t{256} << 20;  // of one encoding at one node; 0: nothing is hot
  double part = 1.0 / 8;                          // of all that is pulled from the node
  int max_copies = 8;                             // beyond the owners, at most kMaxCopies
  // After a change of the copies: several half-lives of the rates (NodeLimits).
  absl::Duration settle = absl::Seconds(10);
  absl::Duration cool = absl::Minutes(1);
};

class HotPolicy {
 public:
  explicit HotPolicy(HotOptions options) : options_(options) {}

  // What is hot now by what is read here, at most kMaxHotRead; and what other nodes want copies of and is read here,
  // with how much. A rate is told again when it has doubled or halved, so that little changes while little does.
  std::vector<HotRead> Look(const node::ReadRates::Snapshot& rates, const View& view, absl::Time now);

 private:
  struct State {
    double reads_per_second = 0, bytes_per_second = 0;  // now
    uint64_t told_reads = 0;
    int copies = 0;   // wanted
    int holders = 0;  // owners and further ones, as they were seen last
    absl::Time settled = absl::InfinitePast();
    absl::Time cools = absl::InfiniteFuture();  // when the copies become fewer, if it stays so
  };

  void Take(const node::ReadRates::Snapshot& rates, const View& view);
  void Decide(const HotName& name, const View& view, absl::Time now, State* state) const;
  // Holders that are needed where none is to give more than `limit` bytes a second.
  static int HoldersFor(const State& state, double limit);

  const HotOptions options_;
  std::map<HotName, State> states_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_HOT_POLICY_H_
