// The drop log on nodes: what was dropped leaves, and no repair brings it back, whatever happens in between.
#include "store/cluster/repair/drops.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/cluster/engines.h"
#include "tests/store/cluster/fake_drop_log.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"

namespace kvlink::store::cluster {
namespace {

using ::kvlink::testing::EngineCluster;
using ::kvlink::testing::Eventually;
using ::kvlink::testing::FakeDropLog;
using ::kvlink::testing::FaultSeeds;
using ::kvlink::testing::MakeInSlot;
using ::kvlink::testing::MakeSynthetic;
using ::kvlink::testing::Synthetic;
using ::kvlink::testing::TestSeed;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using kvlink::testing::Patience;

class DropsTest : public ::testing::Test {
 protected:
  DropOptions Options(int i) {
    DropOptions options;
    options.node = cluster_.node(i).id;
    options.log = {9, 9, 9};
    options.poll = options.move_on = absl::Milliseconds(1);
    options.report = [this](absl::string_view event, absl::string_view) {
      MutexLock lock(&mutex_);
      events_.emplace_back(event);
    };
    return options;
  }
  void Consume(int i) {
    cluster_.node(i).drops = std::make_unique<DropConsumer>(cluster_.node(i).engine.get(), &log_, Options(i));
    const absl::Status caught_up = cluster_.node(i).drops->CatchUp(Patience());
    ASSERT_TRUE(caught_up.ok()) << caught_up;
  }
  void Follow(int i) {
    Consume(i);
    cluster_.node(i).drops->Start();
  }
  // Waits until the node has carried out the whole log.
  void WaitFor(int i) {
    EXPECT_TRUE(Eventually([&] {
      const DropPosition position = cluster_.node(i).engine->dropped();
      return position.transaction >= log_.last().transaction;
    }));
  }
  std::vector<std::string> events() {
    MutexLock lock(&mutex_);
    return events_;
  }

  Mutex mutex_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
  FakeDropLog log_;
  EngineCluster cluster_{3, /*copies=*/3};
};

TEST_F(DropsTest, DropsEveryCodecAndKeepsPosition) {
  Consume(0);
  const Synthetic a = MakeInSlot(1, 1), a_q8 = MakeInSlot(1, 1, 0, Codec::kQ8), b = MakeInSlot(2, 2),
                  c = MakeInSlot(3, 3);
  for (const Synthetic* s : {&a, &a_q8, &b, &c}) cluster_.PutAt(0, *s);
  cluster_.PutAt(0, c, "gone");
  ASSERT_TRUE(cluster_.node(0).engine->PutNamespace("gone", {.capacity_bytes = 1 << 20}).ok());
  log_.Append("ns", a.manifest.identity);
  log_.Append("other", b.manifest.identity);
  log_.Append("gone", std::nullopt);
  ASSERT_TRUE(cluster_.node(0).drops->CatchUp(Patience()).ok());
  EXPECT_FALSE(cluster_.Has(0, a) || cluster_.Has(0, a_q8) || cluster_.Has(0, c, "gone"));
  EXPECT_TRUE(cluster_.Has(0, b) && cluster_.Has(0, c));
  EXPECT_THAT(cluster_.node(0).engine->NamespaceSettingsAll(), IsEmpty());
  EXPECT_EQ(log_.consumers()[cluster_.node(0).id].transaction, log_.last().transaction);
  EXPECT_EQ(cluster_.node(0).drops->statistics().drops, 3);

  // After a restart it continues at its position, and first carries out the drops made meanwhile.
  cluster_.node(0).drops = nullptr;
  cluster_.Reopen(0);
  log_.Append("ns", b.manifest.identity);
  Consume(0);
  EXPECT_FALSE(cluster_.Has(0, b));
  EXPECT_TRUE(cluster_.Has(0, c));
  EXPECT_EQ(cluster_.node(0).drops->statistics().drops, 1);
  EXPECT_THAT(events(), IsEmpty());
}

TEST_F(DropsTest, FollowsLogAndSurvivesLossOfDatabase) {
  Follow(0);
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  cluster_.PutAt(0, a);
  cluster_.PutAt(0, b);
  log_.Append("ns", a.manifest.identity);
  EXPECT_TRUE(Eventually([&] { return !cluster_.Has(0, a); }));
  log_.SetGone(true);
  EXPECT_TRUE(Eventually([&] { return cluster_.node(0).drops->statistics().errors > 2; }));
  EXPECT_TRUE(cluster_.Has(0, b));
  log_.Append("ns", b.manifest.identity);
  log_.SetGone(false);
  EXPECT_TRUE(Eventually([&] { return !cluster_.Has(0, b); }));
  EXPECT_TRUE(Eventually([&] { return cluster_.node(0).drops->statistics().caught_up; }));
  EXPECT_THAT(events(), ElementsAre("drop_log_gone", "drop_log_back"));
}

TEST_F(DropsTest, CatchesUpBeforeServing) {
  Consume(0);
  const Synthetic a = MakeSynthetic(1);
  cluster_.PutAt(0, a);
  cluster_.node(0).drops = nullptr;
  log_.Append("ns", a.manifest.identity);
  log_.SetGone(true);
  DropConsumer drops(cluster_.node(0).engine.get(), &log_, Options(0));
  EXPECT_EQ(drops.CatchUp(SteadyNow() + absl::Milliseconds(20)).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(cluster_.Has(0, a));
  log_.SetGone(false);
  EXPECT_TRUE(drops.CatchUp(Patience()).ok());
  EXPECT_FALSE(cluster_.Has(0, a));
}

TEST_F(DropsTest, EmptiesNodeThatMayHaveMissedDrops) {
  const Synthetic a = MakeSynthetic(1);
  const auto restarted = [&](const std::function<void()>& meanwhile) {
    cluster_.PutAt(0, a);
    cluster_.node(0).drops = nullptr;
    meanwhile();
    Consume(0);
    return !cluster_.Has(0, a) && cluster_.node(0).drops->statistics().emptied == 1;
  };
  Consume(0);
  EXPECT_FALSE(restarted([] {}));
  // The log was trimmed beyond its position.
  EXPECT_TRUE(restarted([&] {
    log_.Append("ns", a.manifest.identity);
    log_.TrimAll();
  }));
  // The database no longer knows the node.
  EXPECT_TRUE(restarted([&] { ASSERT_TRUE(log_.Forget(cluster_.node(0).id, Patience()).ok()); }));
  // Its position belongs to another log.
  EXPECT_TRUE(restarted([&] { ASSERT_TRUE(cluster_.node(0).engine->Drop({}, {{1}, 5, 5}).ok()); }));
  // It holds encodings and was never a consumer.
  EXPECT_TRUE(restarted([&] { ASSERT_TRUE(cluster_.node(0).engine->Drop({}, {}).ok()); }));
  // The same while it runs.
  cluster_.PutAt(0, a);
  cluster_.node(0).drops->Start();
  ASSERT_TRUE(log_.ForgetConsumers(Patience()).ok());
  log_.MoveOn();
  EXPECT_TRUE(Eventually([&] { return !cluster_.Has(0, a); }));
  cluster_.PutAt(0, a);
  WaitFor(0);
  EXPECT_TRUE(cluster_.Has(0, a));
}

// Transactions never stop in the database, since reporting a position is one too.
TEST_F(DropsTest, LogWithoutDropsCausesNoWork) {
  DropOptions options = Options(0);
  options.move_on = options.store_position = absl::Hours(1);
  DropConsumer drops(cluster_.node(0).engine.get(), &log_, options);
  ASSERT_TRUE(drops.CatchUp(Patience()).ok());
  log_.MoveOn();
  ASSERT_TRUE(drops.CatchUp(Patience()).ok());
  const DropPosition before = cluster_.node(0).engine->dropped();
  const int64_t stores = log_.stores();
  for (int i = 0; i < 20; ++i) {
    log_.MoveOn();
    ASSERT_TRUE(drops.CatchUp(Patience()).ok());
  }
  EXPECT_EQ(log_.stores(), stores);
  EXPECT_EQ(cluster_.node(0).engine->dropped(), before);
  // A drop is reported at once.
  log_.Append("ns", MakeSynthetic(1).manifest.identity);
  ASSERT_TRUE(drops.CatchUp(Patience()).ok());
  EXPECT_EQ(log_.stores(), stores + 1);
  EXPECT_EQ(cluster_.node(0).engine->dropped().transaction, log_.last().transaction);
}

// Otherwise it would lose what it stores meanwhile, again and again.
TEST_F(DropsTest, RegistersBeforeEmptyingNode) {
  int emptied = 0;
  DropOptions options = Options(0);
  options.emptied = [&emptied] { ++emptied; };
  Consume(0);
  const Synthetic a = MakeSynthetic(1);
  cluster_.PutAt(0, a);
  cluster_.node(0).drops = nullptr;
  log_.TrimAll();
  ASSERT_TRUE(log_.Forget(cluster_.node(0).id, Patience()).ok());
  log_.RefuseRegistration(true);
  DropConsumer drops(cluster_.node(0).engine.get(), &log_, options);
  EXPECT_TRUE(absl::IsUnavailable(drops.CatchUp(SteadyNow() + absl::Milliseconds(20))));
  EXPECT_TRUE(cluster_.Has(0, a));
  EXPECT_EQ(emptied, 0);
  EXPECT_THAT(events(), IsEmpty());
  log_.RefuseRegistration(false);
  EXPECT_TRUE(drops.CatchUp(Patience()).ok());
  EXPECT_FALSE(cluster_.Has(0, a));
  EXPECT_EQ(emptied, 1);
  EXPECT_THAT(events(), ElementsAre("drop_log_emptied"));
}

// Other members may be about to leave because this one has what they hold.
TEST_F(DropsTest, EmptiesNodeOnceItMay) {
  engine::Engine* const engine = cluster_.node(0).engine.get();
  const Synthetic a = MakeSynthetic(1);
  bool may = false;
  int asked = 0, emptied = 0;
  DropOptions options = Options(0);
  options.request_timeout = absl::Milliseconds(50);
  options.store_position = absl::ZeroDuration();
  options.may_empty = [&] {
    ++asked;
    EXPECT_TRUE(cluster_.Has(0, a));
    return may;
  };
  options.emptied = [&] { ++emptied; };
  DropConsumer drops(engine, &log_, options);
  ASSERT_TRUE(drops.CatchUp(Patience()).ok());
  cluster_.PutAt(0, a);
  const auto forget = [&] {
    log_.MoveOn();
    ASSERT_TRUE(drops.CatchUp(Patience()).ok());
    log_.TrimAll();
    ASSERT_TRUE(log_.Forget(cluster_.node(0).id, Patience()).ok());
  };
  forget();
  EXPECT_TRUE(absl::IsUnavailable(drops.CatchUp(SteadyNow())));
  EXPECT_GT(asked, 0);
  EXPECT_TRUE(drops.memory()->Knows(engine->dropped())) << "pushes are refused meanwhile";
  EXPECT_TRUE(log_.consumers().empty()) << "it is said to have no drop left to carry out";
  // The database was restored, and knows the node again.
  ASSERT_TRUE(log_.Register(cluster_.node(0).id, Patience()).ok());
  EXPECT_EQ(emptied, 0);
  ASSERT_TRUE(drops.CatchUp(Patience()).ok());
  EXPECT_EQ(emptied, 1) << "nobody says that it need not";
  EXPECT_TRUE(cluster_.Has(0, a));
  forget();
  may = true;
  ASSERT_TRUE(drops.CatchUp(Patience()).ok());
  EXPECT_EQ(emptied, 2);
  EXPECT_EQ(drops.statistics().emptied, 1);
  EXPECT_FALSE(cluster_.Has(0, a));
  EXPECT_THAT(events(), ElementsAre("drop_log_emptied"));
}

// Its calls take long, but succeed; the one that is held, half a second after it is released.
class SlowDropLog : public FakeDropLog {
 public:
  void Hold() { held_.store(true); }
  bool holds() const { return holds_.load(); }
  // From now on calls that may wait are counted.
  void Release() { held_.store(false); }
  int calls() const { return calls_.load(); }

  absl::StatusOr<store::database::DropBatch> ReadDrops(const DropPosition& after, int64_t limit,
                                                       absl::Time deadline) override {
    if (held_.load()) {
      holds_.store(true);
      while (held_.load()) absl::SleepFor(absl::Milliseconds(1));
      absl::SleepFor(absl::Milliseconds(500));
    } else {
      Count(deadline);
    }
    return FakeDropLog::ReadDrops(after, limit, deadline);
  }
  absl::Status StorePosition(const NodeId& node, const DropPosition& position, absl::Time deadline) override {
    Count(deadline);
    return FakeDropLog::StorePosition(node, position, deadline);
  }
  absl::StatusOr<int64_t> Trim(absl::Duration retention, absl::Time deadline) override {
    Count(deadline);
    return FakeDropLog::Trim(retention, deadline);
  }

 private:
  void Count(absl::Time deadline) {
    if (holds_.load() && deadline > SteadyNow()) calls_.fetch_add(1);
  }
  std::atomic<bool> held_{false}, holds_{false};
  std::atomic<int> calls_{0};
};

// The node keeps its lease until then, and whoever stops it does not wait for ever.
TEST_F(DropsTest, StopWaitsForOneCall) {
  SlowDropLog log;
  DropOptions options = Options(0);
  options.store_position = options.trim = absl::ZeroDuration();
  DropConsumer drops(cluster_.node(0).engine.get(), &log, options);
  ASSERT_TRUE(drops.CatchUp(Patience()).ok());
  log.Hold();
  drops.Start();
  ASSERT_TRUE(Eventually([&] { return log.holds(); }));
  log.Release();
  drops.Stop();
  EXPECT_LE(log.calls(), 1) << "none, unless this thread was slow to call Stop";
  EXPECT_THAT(events(), IsEmpty());
}

// Transactions that were open in the restored state commit later, below the log's end at that time.
TEST_F(DropsTest, ReadsOpenTransactionsOfRestoredDatabase) {
  Consume(0);
  const Synthetic a = MakeSynthetic(1);
  cluster_.PutAt(0, a);
  for (int i = 0; i < 9; ++i) log_.MoveOn();
  FakeDropLog::State back = log_.Save();
  log_.Append("ns", MakeSynthetic(2).manifest.identity);
  ASSERT_TRUE(cluster_.node(0).drops->CatchUp(Patience()).ok());
  log_.Restore(back);
  log_.Hold(3);
  ASSERT_TRUE(cluster_.node(0).drops->CatchUp(Patience()).ok());
  EXPECT_EQ(cluster_.node(0).drops->statistics().went_back, 1);
  log_.EndHeld("ns", a.manifest.identity);
  ASSERT_TRUE(cluster_.node(0).drops->CatchUp(Patience()).ok());
  EXPECT_FALSE(cluster_.Has(0, a));
  EXPECT_THAT(events(), ElementsAre("drop_log_went_back"));
}

TEST_F(DropsTest, ContinuesWithRestoredDatabase) {
  Follow(0);
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  cluster_.PutAt(0, a);
  cluster_.PutAt(0, b);
  WaitFor(0);
  const FakeDropLog::State saved = log_.Save();
  log_.Append("ns", a.manifest.identity);
  EXPECT_TRUE(Eventually([&] { return !cluster_.Has(0, a); }));
  log_.Restore(saved);
  EXPECT_TRUE(Eventually([&] { return cluster_.node(0).drops->statistics().went_back == 1; }));
  EXPECT_TRUE(cluster_.Has(0, b)) << "it keeps its encodings";
  log_.Append("ns", b.manifest.identity);
  EXPECT_TRUE(Eventually([&] { return !cluster_.Has(0, b); }));
  EXPECT_THAT(events(), ElementsAre("drop_log_went_back"));
}

// The dump is from before the node joined, and the node was down when it was restored.
TEST_F(DropsTest, StartingNodeKeepsEncodingsAfterDatabaseRestore) {
  const FakeDropLog::State before_it_joined = log_.Save();
  for (int i = 0; i < 9; ++i) log_.MoveOn();
  Consume(0);
  const Synthetic a = MakeSynthetic(1);
  cluster_.PutAt(0, a);
  cluster_.node(0).drops = nullptr;
  log_.Restore(before_it_joined);
  Consume(0);
  EXPECT_TRUE(cluster_.Has(0, a));
  EXPECT_THAT(events(), ElementsAre("drop_log_went_back"));
  log_.Append("ns", a.manifest.identity);
  ASSERT_TRUE(cluster_.node(0).drops->CatchUp(Patience()).ok());
  EXPECT_FALSE(cluster_.Has(0, a)) << "it follows the current log";
}

// The dump is from before the nodes joined, and the server's transactions went on. One node runs, one is down.
TEST_F(DropsTest, ContinuesWithDatabaseRestoredIntoSameServer) {
  const FakeDropLog::State dump = log_.Save();
  for (int i = 0; i < 9; ++i) log_.MoveOn();
  Follow(0);
  Consume(1);
  cluster_.node(1).drops = nullptr;
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  for (const Synthetic* s : {&a, &b}) {
    for (int i = 0; i < 2; ++i) cluster_.PutAt(i, *s);
  }
  log_.RestoreInto(log_.last().transaction + 9, dump);
  log_.Append("ns", a.manifest.identity);
  EXPECT_TRUE(Eventually([&] { return cluster_.node(0).drops->statistics().went_back == 1; }));
  Consume(1);
  EXPECT_EQ(cluster_.node(1).drops->statistics().went_back, 1);
  WaitFor(0);
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(cluster_.Has(i, a)) << "it was dropped since";
    EXPECT_TRUE(cluster_.Has(i, b)) << "it keeps its encodings";
    EXPECT_TRUE(log_.consumers().contains(cluster_.node(i).id));
  }
  EXPECT_THAT(events(), ElementsAre("drop_log_went_back", "drop_log_went_back"));
}

// The node followed the old tables, beside the restored ones, to a position after the restoration. The database may
// know the node from the dump; and the answer that it is registered may be lost.
TEST_F(DropsTest, GoesBackToRestoration) {
  for (const bool in_dump : {false, true}) {
    for (const bool runs : {false, true}) {
      if (in_dump && runs) continue;  // a process keeps its database
      SCOPED_TRACE(::testing::Message() << in_dump << runs);
      FakeDropLog log;
      engine::Engine* const engine = cluster_.node(in_dump ? 2 : runs ? 1 : 0).engine.get();
      DropOptions options = Options(0);
      options.move_on = absl::Hours(1);
      options.store_position = absl::ZeroDuration();
      auto drops = std::make_unique<DropConsumer>(engine, &log, options);
      FakeDropLog::State dump = log.Save();
      for (int i = 0; i < 9; ++i) log.MoveOn();
      ASSERT_TRUE(drops->CatchUp(Patience()).ok());
      if (in_dump) dump = log.Save();
      const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
      for (const Synthetic* s : {&a, &b}) {
        ASSERT_TRUE(engine->Put("ns", s->manifest, s->spans(), Patience()).ok());
      }
      for (int i = 0; i < 9; ++i) log.MoveOn();
      const uint64_t restored = log.last().transaction;
      ASSERT_TRUE(engine->Drop({}, {options.log, restored + 9, 0}).ok());
      log.RestoreInto(restored, dump);
      log.Append("ns", a.manifest.identity);
      for (int i = 0; i < 20; ++i) log.MoveOn();
      if (!runs) drops = std::make_unique<DropConsumer>(engine, &log, options);
      log.LoseAnswer();
      EXPECT_TRUE(absl::IsUnavailable(drops->CatchUp(SteadyNow())));
      ASSERT_TRUE(drops->CatchUp(Patience()).ok());
      const auto has = [&](const Synthetic& s) {
        return engine->Find({"ns", s.manifest.identity, s.manifest.codec}).has_value();
      };
      EXPECT_FALSE(has(a)) << "it was dropped since";
      EXPECT_TRUE(has(b));
      EXPECT_TRUE(drops->memory()->Knows(engine->dropped())) << "else nothing could be copied or pushed";
    }
  }
}

// Another server has reached the node's position with transactions that the node never read.
TEST_F(DropsTest, ReadsDropsOfOtherServerBelowItsPosition) {
  const FakeDropLog::State dump = log_.Save();
  for (int i = 0; i < 9; ++i) log_.MoveOn();
  Consume(0);
  const Synthetic a = MakeSynthetic(1), b = MakeSynthetic(2);
  cluster_.PutAt(0, a);
  cluster_.PutAt(0, b);
  cluster_.node(0).drops = nullptr;
  log_.RestoreInto(2, dump);
  log_.Append("ns", a.manifest.identity);
  for (int i = 0; i < 20; ++i) log_.MoveOn();
  Consume(0);
  EXPECT_FALSE(cluster_.Has(0, a));
  EXPECT_TRUE(cluster_.Has(0, b));
}

TEST_F(DropsTest, EmptiesUnknownNodeIfRowsSinceRestorationAreGone) {
  const FakeDropLog::State dump = log_.Save();
  for (int i = 0; i < 9; ++i) log_.MoveOn();
  Consume(0);
  const Synthetic a = MakeSynthetic(1);
  cluster_.PutAt(0, a);
  cluster_.node(0).drops = nullptr;
  log_.RestoreInto(log_.last().transaction + 9, dump);
  log_.Append("ns", a.manifest.identity);
  log_.TrimAll();
  Consume(0);
  EXPECT_FALSE(cluster_.Has(0, a));
  EXPECT_EQ(cluster_.node(0).drops->statistics().emptied, 1);
}

TEST(DropMemory, RecognizesListingsFromBeforeDrop) {
  const auto at = [](uint64_t transaction) { return DropPosition{{7}, transaction, 0}; };
  const Identity a = MakeSynthetic(1).manifest.identity, b = MakeSynthetic(2).manifest.identity;
  using Verdict = DropMemory::Verdict;
  DropMemory memory(/*remembered=*/2);
  EXPECT_EQ(memory.Ask("ns", a, at(5)), Verdict::kUnknown);
  memory.Reset(at(10));
  EXPECT_EQ(memory.Ask("ns", a, at(9)), Verdict::kUnknown);
  EXPECT_EQ(memory.Ask("ns", a, at(10)), Verdict::kAllowed);
  EXPECT_EQ(memory.Ask("ns", a, at(11)), Verdict::kAhead);
  EXPECT_EQ(memory.Ask("ns", a, (DropPosition{{8}, 10, 0})), Verdict::kUnknown);
  EXPECT_FALSE(memory.WaitFor(at(11), SteadyNow() + absl::Milliseconds(1)));
  // A drop counts once it is remembered, before it is carried out.
  memory.Remember({{"ns", a}}, at(11));
  EXPECT_EQ(memory.Ask("ns", a, at(10)), Verdict::kDropped);
  EXPECT_EQ(memory.Ask("ns", b, at(10)), Verdict::kAllowed);
  EXPECT_EQ(memory.Ask("other", a, at(10)), Verdict::kAllowed);
  memory.Advance(at(11));
  EXPECT_TRUE(memory.WaitFor(at(11), SteadyNow()));
  EXPECT_EQ(memory.Ask("ns", a, at(10)), Verdict::kDropped);
  EXPECT_EQ(memory.Ask("ns", a, at(11)), Verdict::kAllowed) << "the peer still has it after the drop";
  EXPECT_TRUE(memory.DroppedSince("ns", a, at(10)) && memory.DroppedSince("ns", b, at(9)));
  EXPECT_FALSE(memory.DroppedSince("ns", a, at(11)) || memory.DroppedSince("ns", b, at(10)));
  EXPECT_TRUE(memory.DroppedSince("ns", a, at(12))) << "it began in a log that has gone back";
  memory.Remember({{"all", std::nullopt}}, at(12));
  memory.Advance(at(12));
  EXPECT_EQ(memory.Ask("all", b, at(11)), Verdict::kDropped);
  EXPECT_EQ(memory.Ask("all", b, at(12)), Verdict::kAllowed);
  // The oldest drop is forgotten, so peers before it are no longer believed.
  memory.Remember({{"ns", b}}, at(13));
  memory.Advance(at(13));
  EXPECT_EQ(memory.Ask("ns", b, at(10)), Verdict::kUnknown);
  EXPECT_EQ(memory.Ask("ns", b, at(11)), Verdict::kDropped);
  EXPECT_FALSE(memory.Knows(at(10)));
  memory.Close();
  EXPECT_EQ(memory.Ask("ns", a, at(13)), Verdict::kUnknown);
}

// What a node reads while it is behind, as when only it cannot reach the database, it could not store.
TEST_F(DropsTest, ReadsNothingFromPeersThatAreAhead) {
  Consume(0);
  Follow(1);
  const Synthetic s = MakeSynthetic(1), other = MakeSynthetic(2);
  cluster_.PutAt(1, s);
  log_.Append("ns", other.manifest.identity);
  WaitFor(1);
  cluster_.node(1).faults.down_after = 0;
  cluster_.StartRepair(0);
  EXPECT_TRUE(Eventually([&] { return cluster_.node(0).repairer->statistics().failed > 0; }));
  EXPECT_FALSE(cluster_.node(1).faults.down) << "it was read";
  cluster_.node(1).faults.down_after = -1;
  cluster_.node(0).drops->Start();
  EXPECT_TRUE(Eventually([&] { return cluster_.Has(0, s); }));
}

// Three nodes with equal contents repair each other without a pause while documents are written and dropped, nodes stop
// consuming, restart and lose their disks, and the log is trimmed. A dropped encoding that was not written again is on
// no node once all have caught up, and never on a node that has carried out the drop.
TEST_F(DropsTest, DroppedEncodingsStayDropped) {
  for (int run = 0; run < FaultSeeds(); ++run) {
    const uint64_t seed = TestSeed() + static_cast<uint64_t>(run);
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    FakeDropLog log;
    EngineCluster cluster(3, /*copies=*/3);
    const auto consume = [&](int i) {
      DropOptions options;
      options.node = cluster.node(i).id;
      options.log = {9};
      options.poll = absl::Milliseconds(1 + static_cast<int>(random() % 4));
      options.remembered = 1 + static_cast<int64_t>(random() % 40);
      options.trim = absl::Milliseconds(20);
      options.store_position = absl::Milliseconds(1);
      cluster.node(i).drops = std::make_unique<DropConsumer>(cluster.node(i).engine.get(), &log, options);
      const absl::Status caught_up = cluster.node(i).drops->CatchUp(Patience());
      ASSERT_TRUE(caught_up.ok()) << caught_up;
      cluster.node(i).drops->Start();
      cluster.StartRepair(i, [](RepairOptions* repair) { repair->interval = absl::Milliseconds(1); });
    };
    // Answers are delayed, so that drops overtake copies.
    for (int i = 0; i < 3; ++i) {
      cluster.node(i).faults.before_answer = [i, seed] {
        thread_local std::mt19937_64 lingering(seed + static_cast<uint64_t>(i));
        absl::SleepFor(absl::Microseconds(lingering() % 3000));
      };
      consume(i);
    }
    std::vector<Synthetic> all;
    std::set<size_t> live;
    for (int step = 0; step < 150; ++step) {
      const int node = static_cast<int>(random() % 3);
      switch (random() % 10) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
          // A write that reaches only some owners.
          all.push_back(MakeInSlot(1 + all.size(), static_cast<int>(random() % 3)));
          live.insert(all.size() - 1);
          cluster.PutAt(node, all.back());
          if (random() % 2 == 0) cluster.PutAt((node + 1) % 3, all.back());
          break;
        case 9:
          if (step % 4 != 0) break;
          // First let another node have a copy of everything.
          EXPECT_TRUE(Eventually([&] {
            return std::all_of(live.begin(), live.end(), [&](size_t s) { return cluster.Has((node + 1) % 3, all[s]); });
          }));
          cluster.StopRepair(node);
          cluster.node(node).drops = nullptr;
          // Stop the other repairs too, since they use this node's engine.
          for (int i = 0; i < 3; ++i) cluster.StopRepair(i);
          if (random() % 3 == 0) {
            cluster.Replace(node);
          } else {
            cluster.Reopen(node);
          }
          consume(node);
          for (int i = 0; i < 3; ++i) {
            if (i != node)
              cluster.StartRepair(i, [](RepairOptions* repair) { repair->interval = absl::Milliseconds(1); });
          }
          break;
        default: {
          if (live.empty()) break;
          // An earlier document, so no push of it is in progress.
          const auto dropped = std::next(live.begin(), static_cast<int64_t>(random() % live.size()));
          log.Append("ns", all[*dropped].manifest.identity);
          live.erase(dropped);
        }
      }
      absl::SleepFor(absl::Microseconds(random() % 2000));
      // A node never again holds what it has dropped; later steps check it too.
      if (step % 10 != 0) continue;
      const auto last = log.last();
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(Eventually([&] { return cluster.node(i).engine->dropped().transaction >= last.transaction; }));
        for (size_t s = 0; s < all.size(); ++s) {
          EXPECT_FALSE(!live.contains(s) && cluster.Has(i, all[s])) << "step " << step << " node " << i;
        }
      }
    }
    for (int i = 0; i < 3; ++i) cluster.WaitComplete(i, 3);
    for (size_t s = 0; s < all.size(); ++s) {
      for (int i = 0; i < 3; ++i) EXPECT_EQ(cluster.Has(i, all[s]), live.contains(s)) << "node " << i;
    }
    for (int i = 0; i < 3; ++i) cluster.StopRepair(i);
  }
}

}  // namespace
}  // namespace kvlink::store::cluster
