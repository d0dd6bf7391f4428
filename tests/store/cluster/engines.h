// Engines as members of a cluster in one process, which repair themselves from each other. The test sets their states,
// which of them are alive, and how they fail.
#ifndef KVLINK_TESTS_STORE_CLUSTER_ENGINES_H_
#define KVLINK_TESTS_STORE_CLUSTER_ENGINES_H_

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "store/cluster/repair/drops.h"
#include "store/cluster/repair/repair.h"
#include "store/cluster/view.h"
#include "store/engine/engine.h"
#include "tests/store/in_slot.h"
#include "tests/support/patience.h"

namespace kvlink::testing {

// A view set by the test. Thread-safe.
class SettableView : public store::cluster::ViewSource {
 public:
  void Set(std::shared_ptr<const store::cluster::View> view);
  std::shared_ptr<const store::cluster::View> view() const override;
  std::shared_ptr<const store::cluster::View> WaitForChange(const std::shared_ptr<const store::cluster::View>& than,
                                                            absl::Time deadline) const override;

 private:
  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::shared_ptr<const store::cluster::View> view_ ABSL_GUARDED_BY(mutex_);
};

// How a member fails its callers. Thread-safe.
struct PeerFaults {
  std::atomic<bool> down{false};
  std::atomic<int> down_after{-1};      // serves this many more reads; -1: any number
  std::atomic<bool> frozen{false};      // reads last until their deadline
  std::atomic<bool> damaged{false};     // reads end with DATA_LOSS
  std::function<void()> before_answer;  // set before any request
};

class EngineCluster {
 public:
  struct Node {
    store::cluster::NodeId id = {};
    store::cluster::MemberState state = store::cluster::MemberState::kActive;
    bool member = true, alive = true;
    uint64_t incarnation = 1;
    store::cluster::HotRecord hot;  // what it publishes
    std::unique_ptr<ScratchDirectory> directory;
    std::unique_ptr<engine::Engine> engine;
    PeerFaults faults;
    std::unique_ptr<store::cluster::DropConsumer> drops;
    std::unique_ptr<store::cluster::Repairer> repairer;
  };

  explicit EngineCluster(int nodes, int copies = 2, int64_t capacity = int64_t{256} << 20);
  ~EngineCluster();

  Node& node(int i) { return *nodes_[i]; }
  int size() const { return static_cast<int>(nodes_.size()); }
  // Adds a member with an empty engine. Publish it afterwards.
  int Add(store::cluster::MemberState state);
  // Replaces the node's engine by an empty one.
  void Replace(int i);
  void Reopen(int i);
  // From now on, members, liveness and hot encodings are as in the nodes. The epoch grows if `moves`.
  void Publish(bool moves = true);
  std::shared_ptr<const store::cluster::View> view() const { return views_.view(); }
  SettableView* views() { return &views_; }

  // Puts the encoding at its owners under the next placement.
  void Put(const Synthetic& s, const std::string& ns = "ns");
  void PutAt(int i, const Synthetic& s, const std::string& ns = "ns");
  bool Has(int i, const Synthetic& s, const std::string& ns = "ns");
  bool Owns(int i, const Synthetic& s) const;

  store::cluster::RepairOptions Options(int i);
  // Passes the node's drops to the repair.
  void StartRepair(int i, const std::function<void(store::cluster::RepairOptions*)>& change = {});
  void StopRepair(int i) { nodes_[i]->repairer = nullptr; }
  // Waits until the node's repair reports everything complete at the current epoch and has made at least `passes`
  // more passes. The test fails after a minute.
  void WaitComplete(int i, int64_t passes = 1);

 private:
  std::unique_ptr<engine::Engine> OpenEngine(const std::string& directory) const;

  const int copies_;
  const int64_t capacity_;
  uint64_t epoch_ = 0;
  SettableView views_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

// The digests of all slots.
std::vector<SlotDigest> AllDigests(engine::Engine* engine);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLUSTER_ENGINES_H_
