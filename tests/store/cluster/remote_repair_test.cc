// Repair from a node as from another process: over gRPC, with a key that may only repair.
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/cluster/repair/repair.h"
#include "tests/store/cluster/engines.h"
#include "tests/store/node/raw_client.h"

namespace kvlink::store::cluster {
namespace {

using ::kvlink::testing::Eventually;
using ::kvlink::testing::MakeInSlot;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::ScratchDirectory;
using ::kvlink::testing::SettableView;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestNode;

class RemoteRepairTest : public ::testing::Test {
 protected:
  RemoteRepairTest() {
    testing::WriteAccessFile(access_.path() + "/access",
                             "writer writer-key-123456 write *\npeer peer-key-12345678 repair *\n");
    peer_ = std::make_unique<TestNode>(testing::Carrier::kLoopback, [this](node::NodeOptions* options) {
      options->access_file = access_.path() + "/access";
      options->control_address = control_.empty() ? options->control_address : control_;
      // Offers memory for mapping, which repair must not use.
      options->engine.share_memory = true;
      options->local_socket = access_.path() + "/socket";
      // Nothing in this test connects over loopback.
      options->carriers.clear();
    });
    control_ = (*peer_)->addresses().control;
    peer_id_ = (*peer_)->engine()->id();
    engine::EngineOptions options;
    options.dram_bytes = 8 << 20;
    options.capacity_bytes = 256 << 20;
    auto opened = engine::Engine::Open(directory_.path() + "/store", options);
    EXPECT_TRUE(opened.ok()) << opened.status();
    engine_ = *std::move(opened);
    self_[0] = 1;
  }

  void Publish(const std::string& address) {
    auto placement = Placement::Compute(1, 2, {{.node_id = self_}, {.node_id = peer_id_}});
    ASSERT_TRUE(placement.ok());
    auto view = std::make_shared<View>();
    view->placement = *std::move(placement);
    for (const Member& member : view->placement.members()) {
      view->status.push_back({.address = member.node_id == self_ ? "" : address, .incarnation = 1});
    }
    views_.Set(std::move(view));
  }
  void StartRepair(const std::string& key, int64_t receive_bytes = int64_t{64} << 20,
                   int64_t part_bytes = int64_t{16} << 20) {
    client::RemoteOptions client;
    client.receive_bytes = receive_bytes;
    client.key = key;
    client.name = "repair";
    RepairOptions options;
    options.self = self_;
    options.open_peer = RemotePeers(client);
    options.part_bytes = part_bytes;
    options.retry = absl::Milliseconds(10);
    options.interval = absl::Milliseconds(50);
    repairer_ = std::make_unique<Repairer>(engine_.get(), &views_, nullptr, std::move(options));
    repairer_->Start();
  }
  void PutAtPeer(const std::vector<Synthetic>& all) {
    client::RemoteOptions options;
    options.address = control_;
    options.key = "writer-key-123456";
    auto store = client::OpenRemote(options);
    ASSERT_TRUE(store.ok()) << store.status();
    for (const Synthetic& s : all) {
      const auto put = (*store)->Put("ns", s.manifest, s.spans(), SteadyNow() + absl::Seconds(60));
      ASSERT_TRUE(put.ok()) << put.status();
    }
  }
  void ExpectSame(const Synthetic& s) {
    const auto lease =
        engine_->Read({"ns", s.manifest.identity, s.manifest.codec}, s.manifest.etag, SteadyNow() + absl::Seconds(60));
    ASSERT_TRUE(lease.ok()) << lease.status();
    for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
      ASSERT_TRUE((*lease)->WaitLayer(static_cast<int64_t>(layer), SteadyNow() + absl::Seconds(60)).ok());
      EXPECT_EQ((*lease)->layer(static_cast<int64_t>(layer)), absl::MakeConstSpan(s.slabs[layer]));
    }
  }
  bool HasAll(const std::vector<Synthetic>& all) {
    for (const Synthetic& s : all) {
      const auto found = engine_->Find({"ns", s.manifest.identity, s.manifest.codec});
      if (!found.has_value() || found->location.etag != s.manifest.etag) return false;
    }
    return true;
  }

  const ScratchDirectory access_{/*in_memory=*/true}, directory_{/*in_memory=*/true};
  std::string control_;
  NodeId self_ = {}, peer_id_ = {};
  SettableView views_;
  std::unique_ptr<TestNode> peer_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<Repairer> repairer_;
};

TEST_F(RemoteRepairTest, CopiesFromPeer) {
  std::vector<Synthetic> all;
  for (uint64_t i = 0; i < 30; ++i) all.push_back(i % 3 == 0 ? MakeInSlot(i, 5) : MakeSynthetic(i, 3, 600));
  PutAtPeer(all);
  Publish(control_);
  StartRepair("peer-key-12345678");
  EXPECT_TRUE(Eventually([&] { return repairer_->progress().complete() && repairer_->statistics().passes > 0; }));
  EXPECT_TRUE(HasAll(all));
  EXPECT_EQ(repairer_->statistics().failed, 0);
  EXPECT_EQ(repairer_->statistics().peer_errors, 0);
  // The copies are the bytes that were put.
  for (const Synthetic& s : all) ExpectSame(s);
}

// Otherwise a joining node would never be complete, and a lost copy never restored.
TEST_F(RemoteRepairTest, CopiesEncodingLargerThanReceiveMemory) {
  const std::vector<Synthetic> all = {MakeSynthetic(1, /*layers=*/3, /*tokens=*/1000, /*kv_heads=*/2, /*head_dim=*/64),
                                      MakeSynthetic(2, /*layers=*/40, /*tokens=*/700, /*kv_heads=*/1, /*head_dim=*/32)};
  PutAtPeer(all);
  Publish(control_);
  constexpr int64_t kReceive = int64_t{1} << 20;
  for (const Synthetic& s : all) ASSERT_GT(s.manifest.bytes(), kReceive);
  StartRepair("peer-key-12345678", kReceive, /*part_bytes=*/300 << 10);
  EXPECT_TRUE(Eventually([&] { return repairer_->progress().complete() && repairer_->statistics().passes > 0; }));
  EXPECT_EQ(repairer_->statistics().peer_errors, 0);
  for (const Synthetic& s : all) ExpectSame(s);
}

// The part that brings the manifest is not read again.
TEST_F(RemoteRepairTest, ReadsEachPartOfLargeEncodingOnce) {
  constexpr int64_t kLayers = 3, kHeads = 2;
  const Synthetic s = MakeSynthetic(1, kLayers, /*tokens=*/1000, kHeads, /*head_dim=*/64);
  PutAtPeer({s});
  Publish(control_);
  StartRepair("peer-key-12345678", int64_t{64} << 20, /*part_bytes=*/300 << 10);  // one head
  EXPECT_TRUE(Eventually([&] { return repairer_->progress().complete() && repairer_->statistics().passes > 0; }));
  ExpectSame(s);
  const engine::Engine::Statistics at_peer = (*peer_)->engine()->Stats();
  EXPECT_EQ(at_peer.hits_dram + at_peer.hits_segments, kLayers * kHeads);
}

TEST_F(RemoteRepairTest, AsksReturningPeerAgain) {
  std::vector<Synthetic> all;
  for (uint64_t i = 0; i < 10; ++i) all.push_back(MakeSynthetic(i));
  PutAtPeer(all);
  peer_->Stop();
  Publish(control_);
  StartRepair("peer-key-12345678");
  EXPECT_TRUE(Eventually([&] { return repairer_->statistics().peer_errors > 0; }));
  EXPECT_FALSE(repairer_->progress().complete());
  peer_->Start();
  EXPECT_TRUE(Eventually([&] { return repairer_->progress().complete(); }));
  EXPECT_TRUE(HasAll(all));
}

}  // namespace
}  // namespace kvlink::store::cluster
