// A node that must empty itself, and what it has told other members before, against a real etcd and a real database.
#include "gmock/gmock.h"
#include "store/cluster/node/member_node.h"
#include "store/cluster/node/upkeep.h"
#include "tests/store/cluster/cluster_database.h"
#include "tests/store/cluster/cluster_etcd.h"
#include "tests/store/database/own_database.h"
#include "tests/store/synthetic.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::testing {
namespace {

using cluster::MemberNode;

class EmptyingTest : public ClusterTest {
 protected:
  void SetUp() override {
    ClusterTest::SetUp();
    if (IsSkipped()) return;
    KVLINK_NEEDS_POSTGRES();
    StartEtcd(1);
    cluster::ClusterSettings settings;
    settings.copies = settings.acknowledged = 1;
    settings.database = SharedServer().connection(SharedServer().NewDatabase());
    const auto made = cluster::CreateCluster(Connect().get(), settings, Patience());
    ASSERT_TRUE(made.ok()) << made.status();
    auto database = OpenDatabase(*made, /*make_tables=*/true, Patience());
    ASSERT_TRUE(database.ok()) << database.status();
    database_ = *std::move(database);
  }
  std::unique_ptr<MemberNode> Start() {
    cluster::UpkeepOptions upkeep;
    upkeep.open_database = OpenDatabase;
    cluster::MemberNodeOptions options;
    options.node.directory = scratch_.path() + "/node";
    options.node.engine.dram_bytes = int64_t{16} << 20;
    options.node.engine.capacity_bytes = int64_t{3} << 30;
    options.node.version = "test";
    options.node.log = [this](absl::string_view line) {
      MutexLock lock(&mutex_);
      log_.append(line.data(), line.size()).append("\n");
    };
    options.cluster = Address();
    options.ttl = absl::Minutes(1);
    options.companions = {cluster::MakeUpkeep(std::move(upkeep))};
    auto node = MemberNode::Start(std::move(options), Patience());
    EXPECT_TRUE(node.ok()) << node.status();
    return node.ok() ? *std::move(node) : nullptr;
  }
  // How often a node has emptied itself.
  int Emptied() {
    MutexLock lock(&mutex_);
    int count = 0;
    for (size_t at = 0; (at = log_.find("drop_log_emptied", at)) != std::string::npos; ++at) ++count;
    return count;
  }
  void Put(const MemberNode& node) {
    const auto put = node.node()->engine()->Put("ns", encoding_.manifest, encoding_.spans(), Patience());
    ASSERT_TRUE(put.ok()) << put.status();
  }
  bool Has(const MemberNode& node) const {
    const auto& manifest = encoding_.manifest;
    return node.node()->engine()->Find({"ns", manifest.identity, manifest.codec}).has_value();
  }
  static bool Complete(const MemberNode& node) {
    const auto progress = node.membership().progress();
    const auto found = progress.find(node.id());
    return found != progress.end() && found->second.complete();
  }

  ScratchDirectory scratch_;
  const Synthetic encoding_ = MakeSynthetic(1);
  std::unique_ptr<store::database::DatabaseCatalog> database_;
  Mutex mutex_;
  std::string log_ ABSL_GUARDED_BY(mutex_);
};

// A member that drains leaves because this one has told that it holds all; what it then removes would be lost.
TEST_F(EmptyingTest, ANodeFirstTellsTheOthers) {
  const auto node = Start();
  ASSERT_NE(node, nullptr);
  ASSERT_TRUE(Eventually([&] { return Complete(*node); }));
  Put(*node);
  etcd_->Freeze(0);
  ASSERT_TRUE(database_->ForgetConsumers(Patience()).ok());
  absl::SleepFor(absl::Seconds(2));  // a weaker test if the node has not noticed by then
  EXPECT_TRUE(Has(*node));
  EXPECT_EQ(Emptied(), 0);
  etcd_->Thaw(0);
  EXPECT_TRUE(Eventually([&] { return !Has(*node); }));
  EXPECT_EQ(Emptied(), 1);
  EXPECT_TRUE(Eventually([&] { return Complete(*node); })) << "it is not filled again";
}

// Its record stays until its lease has ended.
TEST_F(EmptyingTest, ANodeWaitsForWhatItsLastProcessTold) {
  auto node = Start();
  ASSERT_NE(node, nullptr);
  Put(*node);
  const std::string key = cluster::KeyOf("default", cluster::KeyKind::kProgress, node->id());
  node = nullptr;
  ASSERT_TRUE(database_->ForgetConsumers(Patience()).ok());
  const auto connection = Connect();
  const auto lease = connection->client()->Grant(absl::Hours(1), Patience());
  ASSERT_TRUE(lease.ok()) << lease.status();
  const std::string complete = cluster::SerializeProgress({1, 1, 1, 0, 0});
  ASSERT_TRUE(connection->client()->Put(key, complete, lease->id, Patience()).ok());
  Thread starts("starts", [&] { node = Start(); });
  absl::SleepFor(absl::Seconds(2));  // a weaker test if the node has not come so far by then
  EXPECT_EQ(Emptied(), 0);
  EXPECT_TRUE(connection->client()->Revoke(lease->id, Patience()).ok());
  starts.Join();
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(Emptied(), 1);
  EXPECT_FALSE(Has(*node));
}

}  // namespace
}  // namespace kvlink::testing
