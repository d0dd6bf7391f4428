// A process's view of a cluster in a real etcd: changes, short disconnections, compaction, members of etcd that die and
// freeze, a restored snapshot, names and credentials.
#include "store/cluster/members/membership.h"

#include <algorithm>
#include <map>
#include <random>

#include "gmock/gmock.h"
#include "tests/store/cluster/cluster_etcd.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

using cluster::MemberState;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class MembershipTest : public ClusterTest {
 protected:
  cluster::MemberRecord RecordOf(uint8_t node, uint32_t weight = 1) {
    return {absl::StrCat("127.0.0.1:", 7000 + node), "", weight, MemberState::kJoining, "test", {}};
  }
  void Add(cluster::Connection* connection, uint8_t node) {
    const auto added = cluster::AddMember(connection, NodeOf(node), RecordOf(node), Patience());
    ASSERT_TRUE(added.ok()) << added.status();
  }
  // Sets the weight of node 1, from which nothing moves. Returns the last epoch.
  absl::StatusOr<uint64_t> Reweigh(uint32_t weight) {
    const auto connection = Connect();
    const auto changed = cluster::SetWeight(connection.get(), NodeOf(1), weight, Patience());
    if (!changed.ok()) return changed.status();
    return cluster::CompleteMove(connection.get(), NodeOf(1), *changed, Patience());
  }
  // Waits until the view has reached the epoch.
  static bool Reaches(const cluster::Membership& membership, uint64_t epoch) {
    return Eventually([&] { return membership.view()->placement.epoch() >= epoch; });
  }
  static absl::Status OpenStatus(cluster::ClusterAddress address, absl::Time deadline = Patience()) {
    cluster::MembershipOptions options;
    options.address = std::move(address);
    return cluster::Membership::Open(std::move(options), deadline).status();
  }
};

TEST_F(MembershipTest, FollowsChanges) {
  StartEtcd(1);
  const auto settings = Create();
  const auto connection = Connect();
  const auto membership = Open();
  EXPECT_EQ(membership->view()->settings.id, settings.id);
  EXPECT_EQ(membership->view()->placement.epoch(), 0u);
  EXPECT_TRUE(membership->view()->placement.members().empty());
  // Founders are active at once; later members join.
  const auto first = membership->view();
  for (uint8_t node = 1; node <= 3; ++node) Add(connection.get(), node);
  ASSERT_TRUE(Eventually([&] { return membership->view()->status.size() == 3; }));
  EXPECT_NE(membership->WaitForChange(first, Patience()), first);
  auto view = membership->view();
  EXPECT_EQ(view->placement.members()[IndexOf(*view, 1)].state, MemberState::kActive);
  EXPECT_EQ(view->placement.members()[IndexOf(*view, 2)].state, MemberState::kActive);
  EXPECT_EQ(view->placement.members()[IndexOf(*view, 3)].state, MemberState::kJoining);
  EXPECT_EQ(view->status[IndexOf(*view, 3)].address, "127.0.0.1:7003");

  uint64_t epoch = view->placement.epoch();
  const auto changes = [&](const absl::StatusOr<uint64_t>& changed) {
    ASSERT_TRUE(changed.ok()) << changed.status();
    EXPECT_GT(*changed, epoch);
    ASSERT_TRUE(Reaches(*membership, *changed));
    EXPECT_EQ(membership->view()->placement.epoch(), *changed);
    // A process that reads everything again has the same epoch.
    EXPECT_EQ(Open()->view()->placement.epoch(), *changed);
    epoch = *changed;
  };
  changes(cluster::CompleteJoin(connection.get(), NodeOf(3), epoch, Patience()));
  // A change of weight or zone is in two steps, and one after the other.
  const auto former = [&] {
    const auto now = membership->view();
    return now->placement.members()[IndexOf(*now, 2)].former;
  };
  changes(cluster::SetWeight(connection.get(), NodeOf(2), 5, Patience()));
  EXPECT_EQ(former(), (cluster::Standing{"", 1}));
  const auto early = cluster::SetZone(connection.get(), NodeOf(2), "b", Patience());
  EXPECT_TRUE(absl::IsFailedPrecondition(early.status())) << early.status();
  EXPECT_TRUE(
      absl::IsFailedPrecondition(cluster::CompleteMove(connection.get(), NodeOf(2), epoch - 1, Patience()).status()));
  // A node that starts again keeps it, and none joins meanwhile.
  Add(connection.get(), 2);
  Add(connection.get(), 4);
  ASSERT_TRUE(Eventually([&] { return membership->view()->status.size() == 4; }));
  EXPECT_EQ(former(), (cluster::Standing{"", 1}));
  epoch = membership->view()->placement.epoch();
  EXPECT_TRUE(
      absl::IsFailedPrecondition(cluster::CompleteJoin(connection.get(), NodeOf(4), epoch, Patience()).status()));
  // What joins holds nothing yet.
  changes(cluster::SetWeight(connection.get(), NodeOf(4), 2, Patience()));
  EXPECT_EQ(membership->view()->placement.members()[IndexOf(*membership->view(), 4)].former, std::nullopt);
  changes(cluster::CompleteMove(connection.get(), NodeOf(2), epoch, Patience()));
  EXPECT_EQ(former(), std::nullopt);
  EXPECT_EQ(*cluster::CompleteMove(connection.get(), NodeOf(2), 1, Patience()), epoch) << "it is done";
  changes(cluster::Remove(connection.get(), NodeOf(4), false, Patience()));
  changes(cluster::SetZone(connection.get(), NodeOf(2), "b", Patience()));
  EXPECT_EQ(former(), (cluster::Standing{"", 5}));
  changes(cluster::CompleteMove(connection.get(), NodeOf(2), epoch, Patience()));
  view = membership->view();
  EXPECT_EQ(view->placement.members()[IndexOf(*view, 2)].weight, 5u);
  EXPECT_EQ(view->placement.members()[IndexOf(*view, 2)].zone, "b");
  EXPECT_EQ(view->placement.members()[IndexOf(*view, 3)].state, MemberState::kActive);
  changes(cluster::Drain(connection.get(), NodeOf(1), Patience()));
  changes(cluster::CompleteDrain(connection.get(), NodeOf(1), epoch, AllFilled, Patience()));
  changes(cluster::Remove(connection.get(), NodeOf(2), false, Patience()));
  EXPECT_EQ(membership->view()->status.size(), 1u);
  // Setting the present value changes nothing.
  EXPECT_EQ(*cluster::SetWeight(connection.get(), NodeOf(3), 1, Patience()), epoch);
}

TEST_F(MembershipTest, RefusesInvalidChanges) {
  StartEtcd(1);
  Create("default", 1);
  const auto connection = Connect();
  Add(connection.get(), 1);
  Add(connection.get(), 2);
  const auto client = connection->client();
  const auto code = [](const absl::StatusOr<uint64_t>& changed) { return changed.status().code(); };
  EXPECT_EQ(code(cluster::Drain(connection.get(), NodeOf(2), Patience())), absl::StatusCode::kFailedPrecondition)
      << "it joins";
  EXPECT_EQ(code(cluster::Drain(connection.get(), NodeOf(1), Patience())), absl::StatusCode::kFailedPrecondition)
      << "the only active one";
  EXPECT_EQ(code(cluster::Drain(connection.get(), NodeOf(3), Patience())), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(cluster::Remove(connection.get(), NodeOf(3), true, Patience())), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(cluster::SetWeight(connection.get(), NodeOf(1), 0, Patience())), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(cluster::SetZone(connection.get(), NodeOf(1), "a/b", Patience())), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(cluster::CompleteJoin(connection.get(), NodeOf(2), 1, Patience())),
            absl::StatusCode::kFailedPrecondition)
      << "another epoch";
  EXPECT_EQ(connection->client(), client) << "nothing is wrong with it";
  EXPECT_EQ(code(cluster::CompleteDrain(connection.get(), NodeOf(1), 1, AllFilled, Patience())),
            absl::StatusCode::kFailedPrecondition);
  const auto again = cluster::CreateCluster(connection.get(), {}, Patience());
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists) << again.status();
  EXPECT_EQ(cluster::SetWeight(Connect("other").get(), NodeOf(1), 1, Patience()).status().code(),
            absl::StatusCode::kNotFound);
}

// Some member must take over, and hold, what a draining member hands over.
TEST_F(MembershipTest, LastActiveMemberStays) {
  StartEtcd(1);
  Create();
  const auto connection = Connect();
  Add(connection.get(), 1);
  Add(connection.get(), 2);
  ASSERT_TRUE(cluster::Drain(connection.get(), NodeOf(1), Patience()).ok());
  const auto removed = cluster::Remove(connection.get(), NodeOf(2), false, Patience());
  EXPECT_EQ(removed.status().code(), absl::StatusCode::kFailedPrecondition) << removed.status();
  EXPECT_THAT(std::string(removed.status().message()), HasSubstr("--cancel"));
  const auto forced = cluster::Remove(connection.get(), NodeOf(2), true, Patience());
  ASSERT_TRUE(forced.ok()) << forced.status();
  const auto left = cluster::CompleteDrain(connection.get(), NodeOf(1), *forced, AllFilled, Patience());
  EXPECT_EQ(left.status().code(), absl::StatusCode::kFailedPrecondition) << left.status();
  EXPECT_EQ(Open()->view()->status.size(), 1u);
  ASSERT_TRUE(cluster::CancelDrain(connection.get(), NodeOf(1), Patience()).ok());
  // A joining member holds nothing yet.
  Add(connection.get(), 3);
  EXPECT_EQ(cluster::Remove(connection.get(), NodeOf(1), false, Patience()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(cluster::Remove(connection.get(), NodeOf(3), false, Patience()).ok());
  EXPECT_TRUE(cluster::Remove(connection.get(), NodeOf(1), false, Patience()).ok()) << "a member that none needs";
}

// Only records that readers accept are written: one that they refuse would stop all of them.
TEST_F(MembershipTest, AcceptsOnlyReadableMembers) {
  StartEtcd(1);
  Create();
  const auto connection = Connect();
  const auto code = [&](const cluster::MemberRecord& record) {
    return cluster::AddMember(connection.get(), NodeOf(1), record, Patience()).status().code();
  };
  auto record = RecordOf(1);
  record.address = std::string(600, 'h') + ":7400";
  EXPECT_EQ(code(record), absl::StatusCode::kInvalidArgument);
  record = RecordOf(1);
  record.build = "a\nb";
  EXPECT_EQ(code(record), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Open()->view()->status.empty());
  // The description of the change is cut to its limit.
  record = RecordOf(1);
  record.address = std::string(500, 'h') + ":7400";
  EXPECT_EQ(code(record), absl::StatusCode::kOk);
  EXPECT_TRUE(OpenStatus(Address()).ok()) << OpenStatus(Address());
  // UpdateMember does not add members.
  EXPECT_EQ(cluster::UpdateMember(connection.get(), NodeOf(2), RecordOf(2), Patience()).status().code(),
            absl::StatusCode::kNotFound);
  // Two living members may not share an address.
  const auto membership = Open();
  const auto registration = Register(membership.get(), 2);
  ASSERT_TRUE(registration.ok()) << registration.status();
  const auto same = cluster::AddMember(connection.get(), NodeOf(3), RecordOf(2), Patience());
  EXPECT_EQ(same.status().code(), absl::StatusCode::kAborted) << same.status();
  EXPECT_THAT(std::string(same.status().message()), HasSubstr(cluster::IdHex(NodeOf(2))));
  EXPECT_EQ(Open()->view()->status.size(), 2u);
}

// If only one of two concurrent drains is possible, the other one fails.
TEST_F(MembershipTest, SerializesChanges) {
  StartEtcd(1);
  Create("default", 8);
  const auto connection = Connect();
  for (uint8_t node = 1; node <= 8; ++node) Add(connection.get(), node);
  std::vector<absl::Status> outcomes(8);
  {
    std::vector<Thread> threads;
    for (uint8_t node = 1; node <= 8; ++node) {
      threads.emplace_back("drains", [&, node] {
        outcomes[node - 1] = cluster::Drain(Connect().get(), NodeOf(node), Patience()).status();
      });
    }
  }
  EXPECT_EQ(std::count_if(outcomes.begin(), outcomes.end(), [](const absl::Status& one) { return one.ok(); }), 7);
  EXPECT_EQ(std::count_if(outcomes.begin(), outcomes.end(), absl::IsFailedPrecondition), 1);
}

// Whoever waits for a drain asks this.
TEST_F(MembershipTest, TellsHowAMemberLeft) {
  StartEtcd(1);
  Create("default", 4);
  const auto connection = Connect();
  for (uint8_t node = 1; node <= 3; ++node) Add(connection.get(), node);
  const auto drains = cluster::Drain(connection.get(), NodeOf(1), Patience());
  ASSERT_TRUE(drains.ok()) << drains.status();
  ASSERT_TRUE(cluster::CompleteDrain(connection.get(), NodeOf(1), *drains, AllFilled, Patience()).ok());
  ASSERT_TRUE(cluster::Remove(connection.get(), NodeOf(2), false, Patience()).ok());
  const auto last = cluster::SetWeight(connection.get(), NodeOf(3), 5, Patience());
  ASSERT_TRUE(last.ok()) << last.status();
  const auto drained = [&](uint8_t node) { return cluster::HasDrained(connection.get(), NodeOf(node), Patience()); };
  const auto first = drained(1), second = drained(2);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_TRUE(*first);
  EXPECT_FALSE(*second);
  EXPECT_EQ(drained(4).status().code(), absl::StatusCode::kNotFound);
  etcd_->Compact(static_cast<int64_t>(*last));
  EXPECT_EQ(drained(1).status().code(), absl::StatusCode::kNotFound);
}

// The documents of the first node are in the database that it found.
TEST_F(MembershipTest, SetsTheDatabaseOfAnUnusedCluster) {
  StartEtcd(1);
  const auto connection = Connect();
  cluster::ClusterSettings settings;
  settings.database = "postgresql://a/kvlink";
  ASSERT_TRUE(cluster::CreateCluster(connection.get(), settings, Patience()).ok());
  const auto set = [&](const std::string& database, bool unused) {
    return cluster::SetDatabase(connection.get(), database, unused, Patience()).status();
  };
  EXPECT_TRUE(set("postgresql://b/kvlink", /*unused=*/true).ok());
  Add(connection.get(), 1);
  const absl::Status refused = set("postgresql://c/kvlink", /*unused=*/true);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_EQ(Open()->view()->settings.database, "postgresql://b/kvlink");
  EXPECT_TRUE(set("postgresql://c/kvlink", /*unused=*/false).ok());
  EXPECT_EQ(Open()->view()->settings.database, "postgresql://c/kvlink");
}

// A lease that ends and begins again changes who is alive, and neither the epoch nor the tables.
TEST_F(MembershipTest, BriefLossOfLeaseMovesNothing) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  auto registration = Register(membership.get(), 1);
  ASSERT_TRUE(registration.ok()) << registration.status();
  const auto before = membership->view();
  EXPECT_TRUE(AliveIn(*before, 1));
  *registration = nullptr;  // revokes
  ASSERT_TRUE(Eventually([&] { return !AliveIn(*membership->view(), 1); }));
  const auto gone = membership->view();
  registration = Register(membership.get(), 1, 2);
  ASSERT_TRUE(registration.ok()) << registration.status();
  const auto back = membership->view();
  EXPECT_EQ(*back->status[0].incarnation, 2u);
  for (const auto& view : {gone, back}) {
    EXPECT_EQ(view->placement.epoch(), before->placement.epoch());
    // The table was not even recomputed.
    EXPECT_EQ(view->placement.next().Owners(0).data(), before->placement.next().Owners(0).data());
  }
}

TEST_F(MembershipTest, ContinuesAfterCompactionAndRestart) {
  StartEtcd(1);
  Create();
  const auto connection = Connect();
  const auto membership = Open();
  std::mt19937_64 random(TestSeed());
  uint32_t weight = 1;
  Add(connection.get(), 1);
  for (int round = 0; round < (Soak() ? 50 : 6); ++round) {
    // Changes while etcd is down, compacted before the membership has reconnected.
    const bool compact = random() % 2 == 0;
    if (random() % 2 == 0) {
      etcd_->Kill(0);
      absl::SleepFor(absl::Milliseconds(random() % 300));
      etcd_->Restart(0);
    }
    uint64_t epoch = 0;
    for (int i = 0; i < 3; ++i) {
      const auto changed = Reweigh(++weight);
      ASSERT_TRUE(changed.ok()) << changed.status();
      epoch = *changed;
    }
    if (compact) etcd_->Compact(static_cast<int64_t>(epoch));
    ASSERT_TRUE(Reaches(*membership, epoch)) << membership->health().status;
    EXPECT_EQ(membership->view()->placement.members()[0].weight, weight);
  }
  EXPECT_TRUE(Eventually([&] { return membership->health().status.ok(); }));
  EXPECT_FALSE(events_.Told("etcd_set_back"));
}

TEST_F(MembershipTest, KeepsLastViewWithoutEtcd) {
  StartEtcd(1);
  Create();
  Add(Connect().get(), 1);
  const auto membership = Open();
  const auto view = membership->view();
  EXPECT_TRUE(membership->health().status.ok());
  etcd_->Kill(0);
  ASSERT_TRUE(Eventually([&] { return !membership->health().status.ok(); }));
  EXPECT_EQ(membership->view(), view);
  EXPECT_LE(membership->health().since, SteadyNow());
  EXPECT_THAT(std::string(membership->health().status.message()), HasSubstr(etcd_->endpoint(0)));
  EXPECT_TRUE(events_.Told("cluster_view_old"));
  etcd_->Restart(0);
  ASSERT_TRUE(Eventually([&] { return membership->health().status.ok(); }));
  EXPECT_TRUE(events_.Told("cluster_view_current"));
  EXPECT_EQ(membership->view()->placement.epoch(), view->placement.epoch());
}

// Leaders of etcd die or freeze while the cluster changes; nodes stay registered.
TEST_F(MembershipTest, FailsOverWithEtcd) {
  StartEtcd(3);
  Create();
  const auto membership = Open();
  auto registration = cluster::Registration::Start(
      membership.get(),
      [&] {
        auto options = RegistrationOf(1, 1);
        options.ttl = absl::Seconds(5);
        return options;
      }(),
      Patience());
  ASSERT_TRUE(registration.ok()) << registration.status();
  std::mt19937_64 random(TestSeed());
  uint32_t weight = 1;
  for (int round = 0; round < (Soak() ? 30 : 3); ++round) {
    const int leader = etcd_->Leader();
    const bool kill = random() % 2 == 0;
    kill ? etcd_->Kill(leader) : etcd_->Freeze(leader);
    const auto changed = Reweigh(++weight);
    ASSERT_TRUE(changed.ok()) << changed.status();
    ASSERT_TRUE(Reaches(*membership, *changed)) << membership->health().status;
    EXPECT_EQ(membership->view()->placement.epoch(), *changed);
    kill ? etcd_->Restart(leader) : etcd_->Thaw(leader);
    ASSERT_TRUE(Eventually([&] { return AliveIn(*membership->view(), 1); }));
  }
  EXPECT_FALSE((*registration)->ended().has_value());
  EXPECT_FALSE(events_.Told("etcd_set_back"));
}

// Several callers add, remove and change members while members of etcd die and freeze: all views of one epoch have the
// same members, and in the end all views are the same.
TEST_F(MembershipTest, ViewsOfOneEpochAgree) {
  StartEtcd(3);
  Create("default", 3);
  Mutex mutex;
  std::map<uint64_t, std::string> epochs;  // by epoch: the members
  const auto check = [&](const std::shared_ptr<const cluster::View>& view) {
    std::string members;
    for (const auto& one : view->placement.members()) {
      absl::StrAppend(&members, cluster::IdHex(one.node_id), " ", one.zone, " ", one.weight, " ",
                      cluster::StateName(one.state), "\n");
    }
    MutexLock lock(&mutex);
    const auto [known, added] = epochs.emplace(view->placement.epoch(), members);
    EXPECT_EQ(known->second, members) << view->placement.epoch();
  };
  const auto open = [&] {
    cluster::MembershipOptions options;
    options.address = Address();
    options.on_view = check;
    auto membership = cluster::Membership::Open(std::move(options), Patience());
    EXPECT_TRUE(membership.ok()) << membership.status();
    return *std::move(membership);
  };
  std::vector<std::unique_ptr<cluster::Membership>> memberships;
  for (int i = 0; i < 3; ++i) memberships.push_back(open());
  std::mt19937_64 random(TestSeed());
  const int rounds = Soak() ? 30 : 2;
  for (int round = 0; round < rounds; ++round) {
    std::vector<Thread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back("changes", [&, seed = random()] {
        std::mt19937_64 choices(seed);
        const auto connection = Connect();
        for (int change = 0; change < 12; ++change) {
          const auto node = static_cast<uint8_t>(1 + choices() % 6);
          const cluster::NodeId id = NodeOf(node);
          absl::Status status;
          switch (choices() % 6) {
            case 0:
            case 1:
              status = cluster::AddMember(connection.get(), id, RecordOf(node), Patience()).status();
              break;
            case 2:
              status = cluster::SetWeight(connection.get(), id, 1 + choices() % 9, Patience()).status();
              break;
            case 3:
              status = cluster::Drain(connection.get(), id, Patience()).status();
              break;
            case 4:
              status = cluster::Remove(connection.get(), id, false, Patience()).status();
              break;
            case 5: {
              const uint64_t epoch = memberships[0]->view()->placement.epoch();
              status = cluster::CompleteJoin(connection.get(), id, epoch, Patience()).status();
              break;
            }
          }
          EXPECT_TRUE(status.ok() || absl::IsNotFound(status) || absl::IsFailedPrecondition(status)) << status;
        }
      });
    }
    const int member = static_cast<int>(random() % 3);
    const bool kill = random() % 2 == 0;
    absl::SleepFor(absl::Milliseconds(random() % 100));
    kill ? etcd_->Kill(member) : etcd_->Freeze(member);
    for (Thread& thread : threads) thread.Join();
    kill ? etcd_->Restart(member) : etcd_->Thaw(member);
    // A membership that reads everything again, beside those that followed.
    const auto late = open();
    for (const auto& one : memberships) {
      ASSERT_TRUE(Reaches(*one, late->view()->placement.epoch())) << one->health().status;
    }
  }
  EXPECT_GT(epochs.size(), 10u);
}

// After a snapshot is restored, everything is read again, and the log reports that the epoch went back; a running node
// whose record the snapshot lacks becomes a member again by itself.
// A view may be late, and show a member as complete that has emptied itself.
TEST_F(MembershipTest, AMemberLeavesByTheProgressThatEtcdHas) {
  StartEtcd(1);
  Create();
  const auto connection = Connect();
  Add(connection.get(), 1);
  Add(connection.get(), 2);
  const auto drains = cluster::Drain(connection.get(), NodeOf(1), Patience());
  ASSERT_TRUE(drains.ok()) << drains.status();
  const std::string key = cluster::KeyOf("default", cluster::KeyKind::kProgress, NodeOf(2));
  const auto publish = [&](const cluster::ProgressRecord& progress) {
    const std::string bytes = cluster::SerializeProgress(progress);
    ASSERT_TRUE(connection->client()->Put(key, bytes, etcd::kNoLease, Patience()).ok());
  };
  const auto filled = [](const std::map<cluster::NodeId, cluster::ProgressRecord>& progress) {
    const auto found = progress.find(NodeOf(2));
    return found != progress.end() && found->second.complete();
  };
  publish({*drains, 5, 4, 0, 0});
  const auto stays = cluster::CompleteDrain(connection.get(), NodeOf(1), *drains, filled, Patience());
  EXPECT_EQ(stays.status().code(), absl::StatusCode::kFailedPrecondition) << stays.status();
  publish({*drains, 5, 5, 0, 0});
  const auto leaves = cluster::CompleteDrain(connection.get(), NodeOf(1), *drains, filled, Patience());
  EXPECT_TRUE(leaves.ok()) << leaves.status();
}

TEST_F(MembershipTest, RecoversFromRestoredSnapshot) {
  StartEtcd(1);
  Create();
  auto connection = Connect();
  Add(connection.get(), 1);
  ASSERT_TRUE(Reweigh(2).ok());
  etcd_->Backup();
  const auto membership = Open();
  auto registration = Register(membership.get(), 2);
  ASSERT_TRUE(registration.ok()) << registration.status();
  ASSERT_TRUE(cluster::SetWeight(connection.get(), NodeOf(1), 9, Patience()).ok());
  ASSERT_TRUE(Eventually([&] { return membership->view()->placement.members()[0].weight == 9; }));
  etcd_->Restore();
  ASSERT_TRUE(Eventually([&] { return events_.Told("etcd_set_back"); })) << membership->health().status;
  ASSERT_TRUE(Eventually([&] {
    const auto view = membership->view();
    return view->placement.members()[0].weight == 2 && AliveIn(*view, 2);
  })) << membership->health().status;
  EXPECT_TRUE(Eventually([&] { return membership->health().status.ok(); }));
  EXPECT_FALSE((*registration)->ended().has_value());
  // And the membership follows later changes.
  const auto changed = cluster::SetWeight(Connect().get(), NodeOf(1), 3, Patience());
  ASSERT_TRUE(changed.ok()) << changed.status();
  ASSERT_TRUE(Eventually([&] { return membership->view()->placement.epoch() == *changed; }));
}

TEST_F(MembershipTest, DistinguishesNamesAndIdentities) {
  StartEtcd(1);
  const auto none = OpenStatus(Address());
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.message()), AllOf(HasSubstr("'default'"), HasSubstr("kvlink cluster create")));
  const auto a = Create("a");
  const auto b = Create("b", 1);
  EXPECT_NE(a.id, b.id);
  Add(Connect("a").get(), 1);
  Add(Connect("b").get(), 2);
  const auto wrong = OpenStatus(Address("c"));
  EXPECT_EQ(wrong.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(wrong.message()),
              AllOf(HasSubstr("no cluster 'c'"), HasSubstr("a, b"), HasSubstr(etcd_->endpoint(0))));
  // Two clusters in one etcd do not see each other.
  const auto of_a = Open("a"), of_b = Open("b");
  EXPECT_EQ(IndexOf(*of_a->view(), 2), -1);
  EXPECT_EQ(IndexOf(*of_b->view(), 1), -1);
  EXPECT_EQ(of_b->view()->settings.copies, 1);
  const uint64_t epoch = of_a->view()->placement.epoch();
  ASSERT_TRUE(cluster::SetWeight(Connect("b").get(), NodeOf(2), 7, Patience()).ok());
  ASSERT_TRUE(Eventually([&] { return of_b->view()->placement.members()[0].weight == 7; }));
  EXPECT_EQ(of_a->view()->placement.epoch(), epoch);

  // Another cluster with the same name.
  cluster::MembershipOptions options;
  options.address = Address("a");
  options.cluster_id = b.id;
  const auto other = cluster::Membership::Open(options, Patience());
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition) << other.status();
  const auto client = Connect("a")->client();
  ASSERT_TRUE(client->Delete("a/", true, Patience()).ok());
  ASSERT_TRUE(Eventually([&] { return absl::IsNotFound(of_a->health().status); })) << of_a->health().status;
  const auto replaced = Create("a");
  ASSERT_TRUE(Eventually([&] { return absl::IsFailedPrecondition(of_a->health().status); })) << of_a->health().status;
  EXPECT_THAT(std::string(of_a->health().status.message()),
              AllOf(HasSubstr(cluster::IdHex(a.id)), HasSubstr(cluster::IdHex(replaced.id))));
  EXPECT_EQ(of_a->view()->settings.id, a.id);
  EXPECT_EQ(of_a->view()->status.size(), 1u);
}

// A record of a later build, or one damaged by hand, leaves the view as it is and is named.
TEST_F(MembershipTest, KeepsViewOnUnreadableRecords) {
  StartEtcd(1);
  Create();
  const auto connection = Connect();
  Add(connection.get(), 1);
  const auto membership = Open();
  const auto view = membership->view();
  const auto put = [&](const std::string& key, const std::string& value) {
    ASSERT_TRUE(connection->client()->Put("default/" + key, value, etcd::kNoLease, Patience()).ok());
  };
  const std::string member = "members/" + cluster::IdHex(NodeOf(1));
  for (const auto& [value, code] : {std::pair(R"({"format":2})", absl::StatusCode::kUnimplemented),
                                    std::pair("nothing", absl::StatusCode::kInvalidArgument)}) {
    put(member, value);
    ASSERT_TRUE(Eventually([&] { return membership->health().status.code() == code; })) << membership->health().status;
    EXPECT_THAT(std::string(membership->health().status.message()), HasSubstr("/kvlink/default/" + member));
    EXPECT_EQ(membership->view(), view);
    EXPECT_EQ(OpenStatus(Address()).code(), code);
    EXPECT_EQ(cluster::SetWeight(connection.get(), NodeOf(1), 2, Patience()).status().code(), code);
  }
  put(member, cluster::SerializeMember(RecordOf(1)));
  EXPECT_TRUE(Eventually([&] { return membership->health().status.ok(); }));
  // Malformed liveness records and foreign keys stop nothing.
  put("alive/" + cluster::IdHex(NodeOf(1)), "nothing");
  ASSERT_TRUE(Eventually([&] { return absl::IsInvalidArgument(membership->health().status); }));
  EXPECT_FALSE(AliveIn(*membership->view(), 1));
  EXPECT_TRUE(OpenStatus(Address()).ok()) << OpenStatus(Address());
  ASSERT_TRUE(connection->client()->Delete("default/alive/" + cluster::IdHex(NodeOf(1)), false, Patience()).ok());
  EXPECT_TRUE(Eventually([&] { return membership->health().status.ok(); }));
  put("something/else", "x");
  ASSERT_TRUE(cluster::SetWeight(connection.get(), NodeOf(1), 2, Patience()).ok());
  EXPECT_TRUE(Eventually([&] { return membership->view()->placement.members()[0].weight == 2; }));
}

TEST_F(MembershipTest, ReportsCredentialsAndWrongAddresses) {
  StartEtcd(1);
  Create();
  etcd_->EnableAuthentication();
  const absl::Status nobody = OpenStatus(Address());
  EXPECT_EQ(nobody.code(), absl::StatusCode::kUnauthenticated) << nobody;
  EXPECT_THAT(std::string(nobody.message()), Not(HasSubstr("\n")));
  auto address = Address();
  address.etcd.user = "root";
  address.etcd.password = "wrong";
  EXPECT_EQ(OpenStatus(address).code(), absl::StatusCode::kUnauthenticated);
  address.etcd.password = "root";
  EXPECT_TRUE(OpenStatus(address).ok()) << OpenStatus(address);
  address.etcd.user = address.etcd.password = "reader";  // may read other keys only
  EXPECT_EQ(OpenStatus(address).code(), absl::StatusCode::kPermissionDenied);
  address.etcd.endpoints = "127.0.0.1:1";
  const absl::Status gone = OpenStatus(address, SteadyNow() + absl::Seconds(1));
  EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable) << gone;
  EXPECT_THAT(std::string(gone.message()), HasSubstr("127.0.0.1:1"));
}

}  // namespace
}  // namespace kvlink::testing
