// The statistics of cluster members, over the protocol and for Prometheus: two nodes repair each other and carry out
// the drops of a real database, while etcd is killed and the database frozen.
#include "store/cluster/node/figures.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "store/client/control/admin.h"
#include "store/cluster/node/member_node.h"
#include "store/cluster/node/upkeep.h"
#include "tests/store/cluster/cluster_database.h"
#include "tests/store/cluster/cluster_etcd.h"
#include "tests/store/synthetic.h"
#include "tests/support/postgres.h"
#include "tests/support/scratch_directory.h"

namespace kvlink::testing {
namespace {

using cluster::MemberNode;
using store::database::DatabaseCatalog;
using ::testing::IsSupersetOf;
using Values = std::map<std::string, int64_t>;

class FiguresTest : public ClusterTest {
 protected:
  void SetUp() override {
    if (!PostgresServer::Installed()) GTEST_SKIP() << "PostgreSQL is not installed (package postgresql)";
    ClusterTest::SetUp();
    if (IsSkipped()) return;
    StartEtcd(1);
    postgres_ = std::make_unique<PostgresServer>();
    cluster::ClusterSettings settings;
    settings.copies = settings.acknowledged = 2;
    settings.database = postgres_->connection();
    auto made = cluster::CreateCluster(Connect().get(), settings, Patience());
    ASSERT_TRUE(made.ok()) << made.status();
    auto catalog = OpenDatabase(*made, /*make_tables=*/true, Patience());
    ASSERT_TRUE(catalog.ok()) << catalog.status();
    catalog_ = *std::move(catalog);
    for (const char* name : {"a", "b"}) {
      auto node = StartNode(name);
      ASSERT_TRUE(node.ok()) << node.status();
      nodes_.push_back(*std::move(node));
    }
  }
  absl::StatusOr<std::unique_ptr<MemberNode>> StartNode(const std::string& name) {
    cluster::MemberNodeOptions options;
    options.node.directory = scratch_.path() + "/" + name;
    options.node.engine.dram_bytes = int64_t{16} << 20;
    options.node.engine.capacity_bytes = int64_t{1} << 30;
    options.node.log = [](absl::string_view) {};
    options.cluster = Address();
    options.ttl = absl::Seconds(1);
    cluster::UpkeepOptions upkeep;
    upkeep.open_database = OpenDatabase;
    options.companions = {cluster::MakeUpkeep(std::move(upkeep))};
    return MemberNode::Start(std::move(options), Patience());
  }
  // The node's cluster statistics over the protocol.
  Values ValuesOf(int node) const {
    const auto admin = store::client::NodeAdmin::Create({nodes_[node]->node()->addresses().control, "", "figures", {}});
    const auto status = admin->Status(Patience());
    EXPECT_TRUE(status.ok()) << status.status();
    Values values;
    if (!status.ok()) return values;
    for (const auto& [name, value] : status->values) {
      if (absl::StartsWith(name, "cluster_")) values[name] = value;
    }
    return values;
  }
  // The same for Prometheus, by metric and labels.
  Values PageOf(int node) const {
    Values values;
    for (const absl::string_view line : absl::StrSplit(nodes_[node]->node()->MetricsText(), '\n')) {
      if (!absl::StartsWith(line, "kvlink_cluster_")) continue;
      const std::vector<std::string> parts = absl::StrSplit(line, ' ');
      double value = -1;
      EXPECT_TRUE(parts.size() == 2 && absl::SimpleAtod(parts[1], &value)) << line;
      EXPECT_TRUE(values.emplace(parts[0], static_cast<int64_t>(value)).second) << line;
    }
    return values;
  }

  ScratchDirectory scratch_{/*in_memory=*/true};
  std::unique_ptr<PostgresServer> postgres_;
  std::unique_ptr<DatabaseCatalog> catalog_;
  std::vector<std::unique_ptr<MemberNode>> nodes_;
};

TEST_F(FiguresTest, ReportMemberByProtocolAndPrometheus) {
  const Synthetic kept = MakeSynthetic(1), dropped = MakeSynthetic(2);
  for (const Synthetic* encoding : {&kept, &dropped}) {
    const CatalogEntry entry = EntryOf({encoding}, 0);
    ASSERT_TRUE(catalog_->PutDocument("ns", encoding->manifest.identity.Hex(), entry).ok());
    const auto put = nodes_[0]->node()->engine()->Put("ns", encoding->manifest, encoding->spans(), Patience());
    ASSERT_TRUE(put.ok()) << put.status();
  }
  // The second member compared before these puts; a new view makes it compare again.
  ASSERT_TRUE(cluster::SetWeight(Connect().get(), nodes_[0]->id(), 2, Patience()).ok());
  ASSERT_TRUE(Eventually([&] { return ValuesOf(1)["cluster_copied_encodings"] == 2; }));
  ASSERT_TRUE(catalog_->DeleteDocument("ns", dropped.manifest.identity.Hex(), 0).ok());
  ASSERT_TRUE(Eventually([&] { return ValuesOf(1)["cluster_drops"] == 1 && ValuesOf(0)["cluster_drops"] == 1; }));
  ASSERT_TRUE(Eventually([&] { return ValuesOf(1)["cluster_slots_done"] == store::cluster::kSlots; }));

  const Values values = ValuesOf(1), page = PageOf(1);
  EXPECT_EQ(values.size(), page.size());
  EXPECT_THAT(page, IsSupersetOf(Values{{"kvlink_cluster_members{state=\"active\"}", 2},
                                        {"kvlink_cluster_members{state=\"joining\"}", 0},
                                        {"kvlink_cluster_members_alive", 2},
                                        {"kvlink_cluster_lease_held", 1},
                                        {"kvlink_cluster_etcd_unreachable_seconds", 0},
                                        {"kvlink_cluster_view_old_seconds", 0},
                                        {"kvlink_cluster_database_unreachable_seconds", 0},
                                        {"kvlink_cluster_slots", store::cluster::kSlots},
                                        {"kvlink_cluster_bytes_left", 0},
                                        {"kvlink_cluster_copied_encodings_total", 2},
                                        {"kvlink_cluster_drops_total", 1},
                                        {"kvlink_cluster_emptied_total", 0},
                                        {"kvlink_cluster_peers_failing", 0}}));
  EXPECT_EQ(values.at("cluster_epoch"), static_cast<int64_t>(nodes_[1]->membership().view()->placement.epoch()));
  EXPECT_GT(values.at("cluster_copied_bytes"), 0);
  EXPECT_GT(values.at("cluster_drop_log_transaction"), 0);

  // The node keeps running, but no longer shows statistics of parts that have stopped.
  nodes_[1]->Leave();
  const Values left = ValuesOf(1);
  EXPECT_TRUE(left.contains("cluster_epoch"));
  EXPECT_FALSE(left.contains("cluster_slots"));
  EXPECT_FALSE(left.contains("cluster_lease_held"));
}

TEST_F(FiguresTest, ReportUnreachableEtcdAndDatabase) {
  const auto is = [this](const Values& expected) {
    const Values values = ValuesOf(0);
    for (const auto& [name, value] : expected) {
      if ((values.at(name) > 0) != (value > 0)) return false;
    }
    return true;
  };
  ASSERT_TRUE(
      is({{"cluster_lease_held", 1}, {"cluster_etcd_unreachable_s", 0}, {"cluster_database_unreachable_s", 0}}));
  etcd_->Kill(0);
  postgres_->Freeze();
  EXPECT_TRUE(Eventually([&] {
    return is({{"cluster_lease_held", 0}, {"cluster_etcd_unreachable_s", 1}, {"cluster_view_old_s", 1}});
  }));
  EXPECT_TRUE(Eventually([&] { return is({{"cluster_database_unreachable_s", 1}, {"cluster_drop_log_lag_s", 1}}); }));
  EXPECT_EQ(ValuesOf(0)["cluster_members_active"], 2) << "as last known";
  postgres_->Thaw();
  etcd_->Restart(0);
  EXPECT_TRUE(Eventually([&] {
    return is({{"cluster_lease_held", 1}, {"cluster_etcd_unreachable_s", 0}, {"cluster_view_old_s", 0}});
  }));
  EXPECT_TRUE(Eventually([&] { return is({{"cluster_database_unreachable_s", 0}, {"cluster_drop_log_lag_s", 0}}); }));
}

}  // namespace
}  // namespace kvlink::testing
