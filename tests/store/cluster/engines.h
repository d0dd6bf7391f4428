// Engines as the members of a cluster in one process: what each owns, who is alive, and how one repairs itself from the
// others, who may fail.
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

namespace kvlink::testing {

// The view that a test sets. Thread-safe.
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

// How a member fails those who ask it. Thread-safe.
struct PeerFaults {
  std::atomic<bool> down{false};
  std::atomic<int> down_after{-1};      // so many reads more it serves; -1: any number
  std::atomic<bool> frozen{false};      // reads end with their deadline
  std::atomic<bool> damaged{false};     // reads end with DATA_LOSS
  std::function<void()> before_answer;  // set before anybody asks
};

class EngineCluster {
 public:
  struct Node {
    store::cluster::NodeId id = {};
    store::cluster::MemberState state = store::cluster::MemberState::kActive;
    bool member = true, alive = true;
    store::cluster::HotRecord hot;  // that it says
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
  // A member more, with an empty engine. Publish follows.
  int Add(store::cluster::MemberState state);
  // An empty engine in place of the node's.
  void Replace(int i);
  void Reopen(int i);
  // Members, who is alive, and what is hot are from now on as the nodes say. The epoch grows if `moves`.
  void Publish(bool moves = true);
  std::shared_ptr<const store::cluster::View> view() const { return views_.view(); }
  SettableView* views() { return &views_; }

  // Puts it at the owners under next.
  void Put(const Synthetic& s, const std::string& ns = "ns");
  void PutAt(int i, const Synthetic& s, const std::string& ns = "ns");
  bool Has(int i, const Synthetic& s, const std::string& ns = "ns");
  bool Owns(int i, const Synthetic& s) const;

  store::cluster::RepairOptions Options(int i);
  // `drops`: those of the node.
  void StartRepair(int i, const std::function<void(store::cluster::RepairOptions*)>& change = {});
  void StopRepair(int i) { nodes_[i]->repairer = nullptr; }
  // Until the node's repair says that all is complete at the present epoch, and has gone over all at least `passes`
  // times. Fails the test where that takes a minute.
  void WaitComplete(int i, int64_t passes = 1);

 private:
  std::unique_ptr<engine::Engine> OpenEngine(const std::string& directory) const;

  const int copies_;
  const int64_t capacity_;
  uint64_t epoch_ = 0;
  SettableView views_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

// Waits until it is so. False: it was not within a minute.
bool Eventually(const std::function<bool()>& is);

// Digests of all slots.
std::vector<SlotDigest> AllDigests(engine::Engine* engine);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CLUSTER_ENGINES_H_
