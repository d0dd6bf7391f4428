// The drop log of a real database, carried out on two nodes that repair each other.
#include <memory>
#include <string>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/cluster/repair/drops.h"
#include "store/cluster/repair/repair.h"
#include "tests/store/cluster/engines.h"
#include "tests/store/database/own_database.h"
#include "tests/support/patience.h"

namespace kvlink::store::cluster {
namespace {

using ::kvlink::testing::EngineCluster;
using ::kvlink::testing::EntryWith;
using ::kvlink::testing::Eventually;
using ::kvlink::testing::IdentityOf;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::OwnDatabase;
using ::kvlink::testing::Patience;
using ::kvlink::testing::Synthetic;

Synthetic Encoding(uint64_t number) {
  Synthetic made = MakeSynthetic(number);
  made.manifest.identity = IdentityOf(number);
  made.manifest.Seal();
  return made;
}

TEST(DatabaseDrops, DeletedDocumentLeavesEveryNodeForGood) {
  KVLINK_NEEDS_POSTGRES();
  OwnDatabase database;
  const auto log = database.Open();
  EngineCluster cluster(2);
  const auto consume = [&](int i) {
    DropOptions options;
    options.node = cluster.node(i).id;
    options.log = testing::kClusterId;
    options.poll = options.move_on = options.store_position = absl::Milliseconds(20);
    options.trim = absl::Milliseconds(100);
    cluster.node(i).drops = std::make_unique<DropConsumer>(cluster.node(i).engine.get(), log.get(), options);
    const absl::Status caught_up = cluster.node(i).drops->CatchUp(Patience());
    ASSERT_TRUE(caught_up.ok()) << caught_up;
    cluster.node(i).drops->Start();
  };
  const Synthetic one = Encoding(1), two = Encoding(2), three = Encoding(3), four = Encoding(4);
  const auto gone = [&](const Synthetic& s) { return !cluster.Has(0, s) && !cluster.Has(1, s); };
  consume(0);
  consume(1);
  for (int i = 0; i < 2; ++i) cluster.StartRepair(i);
  ASSERT_TRUE(database->PutDocuments("ns", {{"a", EntryWith({1, 2}, 1)}, {"b", EntryWith({2, 3}, 1)}}).ok());
  for (const Synthetic* s : {&one, &two, &three}) cluster.PutAt(0, *s);
  EXPECT_TRUE(Eventually([&] { return cluster.Has(1, one) && cluster.Has(1, two) && cluster.Has(1, three); }));
  ASSERT_TRUE(database->DeleteDocument("ns", "a", 0).ok());
  EXPECT_TRUE(Eventually([&] { return gone(one); }));
  EXPECT_TRUE(cluster.Has(0, two) && cluster.Has(1, three)) << "others refer to them";

  // A node that was down catches up before anything else.
  for (int i = 0; i < 2; ++i) cluster.StopRepair(i);
  cluster.node(1).drops = nullptr;
  cluster.Reopen(1);
  ASSERT_TRUE(database->DeleteDocument("ns", "b", 0).ok());
  EXPECT_TRUE(Eventually([&] { return !cluster.Has(0, two) && !cluster.Has(0, three); }));
  consume(1);
  EXPECT_TRUE(gone(two) && gone(three));
  EXPECT_EQ(cluster.node(1).drops->statistics().emptied, 0);
  // An encoding that another document refers to again is kept again, on both nodes.
  ASSERT_TRUE(database->PutDocument("ns", "c", EntryWith({1, 4}, 1)).ok());
  cluster.PutAt(0, one);
  cluster.PutAt(0, four);
  for (int i = 0; i < 2; ++i) cluster.StartRepair(i);
  EXPECT_TRUE(Eventually([&] { return cluster.Has(1, one) && cluster.Has(1, four); }));
  ASSERT_TRUE(database->DeleteNamespace("ns").ok());
  EXPECT_TRUE(Eventually([&] { return gone(one) && gone(four); }));
  const store::database::NodeId nodes[] = {cluster.node(0).id, cluster.node(1).id};
  const auto end = database->End(Patience());
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_TRUE(database->WaitForConsumers(*end, nodes, Patience()).ok());

  // When the log starts again, so do the nodes.
  cluster.PutAt(0, one);
  ASSERT_TRUE(database->ForgetConsumers(Patience()).ok());
  EXPECT_TRUE(Eventually([&] {
    return cluster.node(0).drops->statistics().emptied > 0 && cluster.node(1).drops->statistics().emptied > 0;
  }));
  EXPECT_TRUE(Eventually([&] { return cluster.node(0).drops->statistics().caught_up; }));
}

}  // namespace
}  // namespace kvlink::store::cluster
