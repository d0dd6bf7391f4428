// Decides which encodings are hot on a node, and how many further copies of each it wants (store/cluster/hot.h).
//
// An encoding is hot if its bytes pulled from the node per second exceed a limit and a considerable part of all bytes
// pulled from it: if many encodings keep a node busy, more nodes help, not more copies. One read alone, however large,
// makes nothing hot. The node wants as many copies as bring each holder below the limit, assuming that all of them are
// read equally. It wants more once the rates show the effect of the last ones, and fewer once half the limit would do
// for a while. So a rate close to a threshold does not make the number of copies flap.
//
// Thread-safety: one thread. Times are of SteadyNow().
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
  int64_t bytes_per_second = int64_t{256} << 20;  // the limit, for one encoding on one node; 0: nothing is hot
  double part = 1.0 / 8;                          // of all bytes pulled from the node
  int max_copies = 8;                             // beyond the owners; at most kMaxCopies
  // From a change of the holders until the rates show its effect: several half-lives (NodeLimits).
  absl::Duration settle = absl::Seconds(10);
  absl::Duration cool = absl::Minutes(1);  // for how long fewer copies must do
};

class HotPolicy {
 public:
  explicit HotPolicy(HotOptions options) : options_(options) {}

  // Returns what to publish now, at most kMaxHotRead encodings: those that are hot here, and the rates of those that
  // other nodes want copies of. A rate is updated when it has doubled or halved, so that the record rarely changes.
  std::vector<HotRead> Look(const node::ReadRates::Snapshot& rates, const View& view, absl::Time now);

 private:
  struct State {
    double reads_per_second = 0, bytes_per_second = 0;  // now
    uint64_t published_reads = 0;                       // per second
    int copies = 0;                                     // wanted
    int holders = 0;                                    // owners and further members, at the last look
    absl::Time settled = absl::InfinitePast();          // when more copies may be wanted
    absl::Time cooled = absl::InfiniteFuture();         // when fewer copies are wanted, if fewer do until then
  };

  void Take(const node::ReadRates::Snapshot& rates, const View& view);
  void Decide(const HotName& name, const View& view, absl::Time now, State* state) const;
  // How many holders are needed so that none serves more than `limit` bytes per second.
  static int HoldersFor(const State& state, double limit);

  const HotOptions options_;
  std::map<HotName, State> states_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_NODE_HOT_POLICY_H_
