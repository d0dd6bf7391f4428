// Nodes that a signal stops at random moments (by seed): their connections stay open and silent. Every byte read is
// compared; no read fails while one owner of each encoding keeps running.
#include <atomic>
#include <csignal>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/cluster/replicas/replicated.h"
#include "tests/store/cluster/replicas/cluster_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {
namespace {

constexpr int kNodes = 3;

// Three nodes in separate processes; none is a member of a cluster, so they serve everything they hold.
class FrozenTest : public ::testing::Test {
 protected:
  FrozenTest() {
    std::map<NodeId, std::pair<std::string, std::unique_ptr<Subprocess>>> started;
    for (int i = 0; i < kNodes; ++i) {
      const std::string address = UnusedAddress();
      auto node = std::make_unique<Subprocess>(
          std::vector<std::string>{NODE_PROCESS, absl::StrCat(directory_.path(), "/", i), address},
          SubprocessOptions{.keep_input_open = true});
      const absl::Time limit = Patience();
      while (node->output().empty() && node->running() && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(5));
      EXPECT_FALSE(node->output().empty()) << node->errors();
      const auto session = RawControl(address).Open();
      EXPECT_TRUE(session.ok()) << session.status();
      if (session.ok()) started[ToNodeId(session->node_id()).value()] = {address, std::move(node)};
    }
    // Nodes are numbered like the members of the view.
    std::vector<TestMember> members;
    for (auto& [id, node] : started) {
      members.push_back({.address = node.first, .id = id});
      nodes_.push_back(std::move(node.second));
    }
    views_->Set(MakeView(1, 2, 2, members));
    store::cluster::ReplicatedOptions options;
    options.node.name = "test";
    options.node.carrier = *store::client::ParseCarrier("ucx");
    auto opened = store::cluster::OpenReplicated(views_, nullptr, options);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  void Freeze(int node) { nodes_[node]->Signal(SIGSTOP); }
  void Thaw(int node) { nodes_[node]->Signal(SIGCONT); }

  ScratchDirectory directory_{/*in_memory=*/true};
  std::vector<std::unique_ptr<Subprocess>> nodes_;
  const std::shared_ptr<TestViews> views_ = std::make_shared<TestViews>();
  std::unique_ptr<store::cluster::ReplicatedStore> store_;
};

TEST_F(FrozenTest, ReadsContinueAtOtherOwner) {
  std::vector<Synthetic> documents;
  for (int i = 0; i < 12; ++i) {
    documents.push_back(MakeSynthetic(i, 24, 600, 2, 64));  // some MiB each, so that a freeze hits transfers
    ASSERT_TRUE(store_->Put("ns", documents[i].manifest, documents[i].spans(), Patience()).ok());
  }
  for (int round = 0; round < FaultSeeds(); ++round) {
    std::mt19937_64 random(TestSeed() + round);
    std::atomic<bool> stop{false};
    std::atomic<int> reads{0};
    std::vector<std::thread> readers;
    for (int t = 0; t < 2; ++t) {
      readers.emplace_back([&, seed = random()] {
        std::mt19937_64 own(seed);
        while (!stop) {
          const Synthetic& one = documents[own() % documents.size()];
          EXPECT_EQ(ReadAndCompare(store_.get(), "ns", one), absl::OkStatus()) << "seed " << TestSeed() + round;
          ++reads;
        }
      });
    }
    const int node = static_cast<int>(random() % kNodes);
    absl::SleepFor(absl::Microseconds(random() % 20000));
    Freeze(node);
    const int enough = reads + 30;
    const absl::Time limit = Patience();
    while (reads < enough && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_GE(reads, enough);
    Thaw(node);
    stop = true;
    for (std::thread& reader : readers) reader.join();
    // A node that answers again is asked again.
    const absl::Time again = Patience();
    while (store_->Nodes()[node].resting && SteadyNow() < again) {
      EXPECT_TRUE(ReadAndCompare(store_.get(), "ns", documents[random() % documents.size()]).ok());
    }
    EXPECT_FALSE(store_->Nodes()[node].resting);
  }
}

// The node that serves a lease stops, and another delivers the remaining layers.
TEST_F(FrozenTest, LeaseContinuesAtOtherOwner) {
  const Synthetic one = MakeSynthetic(1, 30, 600, 4, 64);
  ASSERT_TRUE(store_->Put("ns", one.manifest, one.spans(), Patience()).ok());
  const auto& members = views_->view()->placement;
  const auto owners = members.NextOwners(one.manifest.identity);
  for (int attempt = 0; attempt < 50 && store_->Counters().changed_owner == 0; ++attempt) {
    const auto lease = store_->Read("ns", one.manifest.identity, one.manifest.codec, one.manifest.etag, Patience());
    ASSERT_TRUE(lease.ok()) << lease.status();
    // One of the two serves the lease; the other takes over.
    Freeze(owners[attempt % 2]);
    for (size_t layer = 0; layer < one.slabs.size(); ++layer) {
      EXPECT_EQ(CompareLayer(lease->get(), one, layer, Patience()), absl::OkStatus()) << layer;
    }
    // Layers that arrived earlier stay where they are.
    for (size_t layer = 0; layer < one.slabs.size(); ++layer) {
      EXPECT_EQ(CompareLayer(lease->get(), one, layer, Patience()), absl::OkStatus()) << layer;
    }
    EXPECT_TRUE((*lease)->intact());
    Thaw(owners[attempt % 2]);
  }
  EXPECT_GT(store_->Counters().changed_owner, 0);
}

// A frozen owner cannot acknowledge; the put's error names it.
TEST_F(FrozenTest, FrozenOwnerDoesNotAcknowledgePut) {
  const Synthetic one = MakeSynthetic(1);
  ASSERT_TRUE(store_->Put("ns", one.manifest, one.spans(), Patience()).ok());
  const Synthetic next = MakeSynthetic(2);
  const auto owners = views_->view()->placement.NextOwners(next.manifest.identity);
  Freeze(owners[0]);
  const auto put = store_->Put("ns", next.manifest, next.spans(), SteadyNow() + absl::Seconds(3));
  EXPECT_FALSE(put.ok());
  EXPECT_NE(std::string(put.status().message()).find(views_->view()->status[owners[0]].address), std::string::npos)
      << put.status();
  EXPECT_EQ(ReadAndCompare(store_.get(), "ns", next), absl::OkStatus()) << "the other copy exists";
  Thaw(owners[0]);
  EXPECT_TRUE(store_->Put("ns", next.manifest, next.spans(), Patience()).ok());
}

}  // namespace
}  // namespace kvlink::testing
