// A node's entry in etcd: kept, renewed, taken over by the node's next process, refused to a copy.
#include "store/cluster/members/registration.h"

#include "gmock/gmock.h"
#include "proto/data.h"
#include "tests/store/cluster/cluster_etcd.h"

namespace kvlink::testing {
namespace {

using cluster::MemberState;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RegistrationTest : public ClusterTest {};

TEST_F(RegistrationTest, RegistersAndLeaves) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  {
    const auto registration = Register(membership.get(), 1, 5);
    ASSERT_TRUE(registration.ok()) << registration.status();
    const auto view = membership->view();
    ASSERT_EQ(view->status.size(), 1u);
    EXPECT_EQ(view->status[0].address, "127.0.0.1:7001");
    EXPECT_EQ(*view->status[0].incarnation, 5u);
    EXPECT_EQ(view->placement.members()[0].state, MemberState::kActive);
    const cluster::ProgressRecord progress{view->placement.epoch(), 10, 3, 1000, 0};
    (*registration)->Publish(progress);
    EXPECT_TRUE(Eventually([&] { return membership->progress() == std::map{std::pair(NodeOf(1), progress)}; }));
    EXPECT_EQ(membership->view()->hot, nullptr);
    const cluster::HotRecord hot{{}, {{"ns", Identity(), Codec::kQ8}}};
    (*registration)->Publish(hot);
    ASSERT_TRUE(Eventually([&] { return membership->view()->hot != nullptr; }));
    EXPECT_EQ(membership->view()->FurtherHolders(Identity()), (std::vector<uint16_t>{0}));
    EXPECT_EQ(membership->view()->placement.next().Owners(0).data(), view->placement.next().Owners(0).data())
        << "the tables are reused";
  }
  // The lease was revoked; it did not expire.
  ASSERT_TRUE(Eventually([&] { return !AliveIn(*membership->view(), 1); }));
  EXPECT_TRUE(membership->progress().empty());
  EXPECT_EQ(membership->view()->hot, nullptr);
  EXPECT_EQ(membership->view()->status.size(), 1u);
}

// A restart changes the address, but not weight and zone, which administrators may have set.
TEST_F(RegistrationTest, RestartChangesOnlyAddress) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  ASSERT_TRUE(Register(membership.get(), 1).ok());
  ASSERT_TRUE(cluster::SetWeight(membership->connection(), NodeOf(1), 9, Patience()).ok());
  auto options = RegistrationOf(1, 2, "127.0.0.1:7777");
  options.record.zone = "z";
  const auto registration = cluster::Registration::Start(membership.get(), options, Patience());
  ASSERT_TRUE(registration.ok()) << registration.status();
  const auto view = membership->view();
  EXPECT_EQ(view->status[0].address, "127.0.0.1:7777");
  EXPECT_EQ(view->placement.members()[0].weight, 9u);
  EXPECT_EQ(view->placement.members()[0].zone, "");
  EXPECT_TRUE(events_.Told("member_settings_kept"));
}

// A killed process leaves its lease: the next process at the same address does not wait for it to end.
TEST_F(RegistrationTest, NextStartTakesOver) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  // Leave what a killed process leaves: a lease that is not kept alive.
  ASSERT_TRUE(Register(membership.get(), 1).ok());
  const auto client = membership->connection()->client();
  const auto leave = [&](uint64_t incarnation, absl::Duration ttl) {
    const auto lease = client->Grant(ttl, Patience());
    ASSERT_TRUE(lease.ok()) << lease.status();
    const std::string key = cluster::KeyOf("default", cluster::KeyKind::kAlive, NodeOf(1));
    ASSERT_TRUE(client->Put(key, cluster::SerializeAlive({incarnation, "127.0.0.1:7001"}), lease->id, Patience()).ok());
  };
  leave(2, absl::Hours(1));
  {
    const auto registration = Register(membership.get(), 1, 3);
    ASSERT_TRUE(registration.ok()) << registration.status();
    EXPECT_EQ(*membership->view()->status[0].incarnation, 3u);
  }
  // At another address it waits for the lease to end.
  leave(4, absl::Seconds(1));
  const auto registration = Register(membership.get(), 1, 5, "127.0.0.1:7999");
  ASSERT_TRUE(registration.ok()) << registration.status();
  EXPECT_EQ(membership->view()->status[0].address, "127.0.0.1:7999");
}

TEST_F(RegistrationTest, RefusesSecondProcessWithSameIdentity) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  const auto first = Register(membership.get(), 1, 1, "127.0.0.1:7001");
  ASSERT_TRUE(first.ok()) << first.status();
  const auto copy = Register(membership.get(), 1, 2, "127.0.0.1:7002");
  EXPECT_EQ(copy.status().code(), absl::StatusCode::kAlreadyExists) << copy.status();
  EXPECT_THAT(std::string(copy.status().message()),
              AllOf(HasSubstr("127.0.0.1:7001"), HasSubstr("127.0.0.1:7002"), HasSubstr("copy")));
  EXPECT_FALSE((*first)->ended().has_value());
  EXPECT_EQ(*membership->view()->status[0].incarnation, 1u);
  EXPECT_EQ(membership->view()->status[0].address, "127.0.0.1:7001");
}

// A copy that is started again and again must not take the place of a node that restarts.
TEST_F(RegistrationTest, RefusesCopyWhileNodeIsDown) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  const auto start = [&](uint64_t incarnation, uint64_t entered) {
    auto options = RegistrationOf(1, incarnation, "127.0.0.1:7777");
    options.entered = entered;
    options.keep = [](uint64_t) { return absl::InternalError("a refused directory is left as it is"); };
    return cluster::Registration::Start(membership.get(), options, Patience()).status();
  };
  uint64_t copied;
  {
    ASSERT_TRUE(Register(membership.get(), 1, 5).ok());
    const auto node = Register(membership.get(), 1, 7);
    ASSERT_TRUE(node.ok()) << node.status();
    copied = entered_[1];
    EXPECT_EQ(start(8, 6).code(), absl::StatusCode::kAlreadyExists) << "copied before the node was started";
  }
  for (const uint64_t old : {uint64_t{0}, uint64_t{6}, copied}) {
    const absl::Status refused = start(100, old);
    EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists) << old << ": " << refused;
    EXPECT_THAT(std::string(refused.message()),
                AllOf(HasSubstr("127.0.0.1:7001"), HasSubstr("127.0.0.1:7777"), HasSubstr("kvlink members remove")));
  }
  EXPECT_TRUE(Register(membership.get(), 1, 9).ok());
  // Once the member is removed, there is no place to take; an older build removes nothing but the member.
  ASSERT_TRUE(cluster::Remove(membership->connection(), NodeOf(1), true, Patience()).ok());
  EXPECT_TRUE(start(101, copied).ok());
  ASSERT_TRUE(Register(membership.get(), 1, 200).ok());
  EXPECT_EQ(start(201, copied).code(), absl::StatusCode::kAlreadyExists);
  const std::string member = cluster::KeyOf("default", cluster::KeyKind::kMember, NodeOf(1));
  ASSERT_TRUE(membership->connection()->client()->Delete(member, false, Patience()).ok());
  const absl::Status after = start(202, copied);
  EXPECT_TRUE(after.ok()) << after;
}

// A copy of an older build that loses the race has written its address into the member's record.
TEST_F(RegistrationTest, ANodesAddressIsThatOfItsEntry) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  const auto node = Register(membership.get(), 1, 5);
  ASSERT_TRUE(node.ok()) << node.status();
  const std::string member = cluster::KeyOf("default", cluster::KeyKind::kMember, NodeOf(1));
  const std::string of_copy = cluster::SerializeMember(RegistrationOf(1, 6, "127.0.0.1:7777").record);
  ASSERT_TRUE(membership->connection()->client()->Put(member, of_copy, etcd::kNoLease, Patience()).ok());
  ASSERT_TRUE(Register(membership.get(), 2, 5).ok());  // the view has seen what came before
  ASSERT_EQ(membership->view()->status.size(), 2u);
  EXPECT_EQ(membership->view()->status[0].address, "127.0.0.1:7001");
}

// Its address, build and protocol would be taken for the node's once the node's lease has ended.
TEST_F(RegistrationTest, ACopyThatCameSecondWritesNothing) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  ASSERT_TRUE(Register(membership.get(), 1, 5).ok());
  const auto client = membership->connection()->client();
  const auto record = [&] {
    const auto got = client->Get(cluster::KeyOf("default", cluster::KeyKind::kMember, NodeOf(1)), {}, Patience());
    return got.ok() && got->found.size() == 1 ? got->found[0].value : "";
  };
  std::unique_ptr<cluster::Registration> node;
  std::string of_node;
  auto copy = RegistrationOf(1, 100, "127.0.0.1:7777");
  copy.record.build = "another";
  copy.record.protocol = {kProtocols.max, kProtocols.max + 1};
  copy.keep = [&](uint64_t) {
    if (node != nullptr) return absl::OkStatus();
    auto first = Register(membership.get(), 1, 7);
    if (first.ok()) node = *std::move(first);
    of_node = record();
    return first.status();
  };
  const absl::Status second = cluster::Registration::Start(membership.get(), copy, Patience()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists) << second;
  ASSERT_NE(node, nullptr);
  // It may have looked before the node entered, and gone on after that.
  const auto draft = cluster::AddMember(membership->connection(), NodeOf(1), copy.record, Patience());
  ASSERT_TRUE(draft.ok()) << draft.status();
  EXPECT_EQ(draft->record.address, "127.0.0.1:7777");
  EXPECT_EQ(record(), of_node);
  EXPECT_THAT(of_node, AllOf(HasSubstr("127.0.0.1:7001"), HasSubstr("\"test\"")));
  node = nullptr;
  ASSERT_TRUE(Eventually([&] { return !AliveIn(*membership->view(), 1); }));
  EXPECT_EQ(membership->view()->status[0].address, "127.0.0.1:7001");
  EXPECT_EQ(record(), of_node);
}

// Else a copy that another process came before could pass for the node later.
TEST_F(RegistrationTest, AStartThatFailsGivesItsNumberBack) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  ASSERT_TRUE(Register(membership.get(), 1, 5).ok());
  const auto client = membership->connection()->client();
  auto options = RegistrationOf(1, 100, "127.0.0.1:7777");
  const uint64_t before = options.entered = entered_[1];
  std::vector<uint64_t> kept;
  options.keep = [&](uint64_t entered) -> absl::Status {
    kept.push_back(entered);
    if (entered == before) return absl::OkStatus();
    const auto lease = client->Grant(absl::Hours(1), Patience());
    if (!lease.ok()) return lease.status();
    const std::string key = cluster::KeyOf("default", cluster::KeyKind::kAlive, NodeOf(1));
    const bool first = client->Put(key, cluster::SerializeAlive({7, "127.0.0.1:7001"}), lease->id, Patience()).ok();
    return first ? absl::OkStatus() : absl::InternalError("the other process could not come first");
  };
  const absl::Time deadline = SteadyNow() + absl::Seconds(2);
  const absl::Status refused = cluster::Registration::Start(membership.get(), options, deadline).status();
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(kept, ElementsAre(100u, before));
}

// A copy that starts at the same moment is refused for good, too.
TEST_F(RegistrationTest, RefusesCopyThatCameSecond) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  ASSERT_TRUE(Register(membership.get(), 1, 5).ok());
  uint64_t kept = entered_[1];
  std::unique_ptr<cluster::Registration> node;
  const auto start_copy = [&](uint64_t incarnation, bool beside) {
    auto options = RegistrationOf(1, incarnation, "127.0.0.1:7777");
    options.entered = kept;
    options.keep = [&](uint64_t entered) {
      kept = entered;
      if (!beside || node != nullptr) return absl::OkStatus();
      auto first = Register(membership.get(), 1, 7);
      if (first.ok()) node = *std::move(first);
      return first.status();
    };
    return cluster::Registration::Start(membership.get(), options, Patience()).status();
  };
  const absl::Status second = start_copy(100, /*beside=*/true);
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists) << second;
  ASSERT_NE(node, nullptr);
  node = nullptr;  // restarts
  const absl::Status again = start_copy(200, /*beside=*/false);
  EXPECT_EQ(again.code(), absl::StatusCode::kAlreadyExists) << again;
  EXPECT_TRUE(Register(membership.get(), 1, 9).ok());
}

// Where clocks were set back, the incarnation is the next one after the last, the same in both.
TEST_F(RegistrationTest, RefusesCopyOfTheSameIncarnationThatCameSecond) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  ASSERT_TRUE(Register(membership.get(), 1, 5).ok());
  auto copy = RegistrationOf(1, 7, "127.0.0.1:7777");
  uint64_t kept = copy.entered;
  std::unique_ptr<cluster::Registration> node;
  copy.keep = [&](uint64_t entered) {
    kept = entered;
    if (node != nullptr) return absl::OkStatus();
    auto first = Register(membership.get(), 1, 7);
    if (first.ok()) node = *std::move(first);
    return first.status();
  };
  const absl::Status second = cluster::Registration::Start(membership.get(), copy, Patience()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists) << second;
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(kept, copy.entered);
  EXPECT_FALSE(node->ended().has_value());
  EXPECT_EQ(membership->view()->status[0].address, "127.0.0.1:7001");
}

// The directory is ahead of etcd after a crash between the two, and after etcd was restored; etcd does not know it if
// its last process was of an older build; and it may not be able to keep a number.
TEST_F(RegistrationTest, ReturnsWithDirectoryThatIsNotOlder) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  const auto client = membership->connection()->client();
  const std::string key = cluster::KeyOf("default", cluster::KeyKind::kEntered, NodeOf(1));
  const auto in_etcd = [&] {
    const auto got = client->Get(key, {}, Patience());
    return got.ok() && got->found.size() == 1 ? cluster::ParseAlive(got->found[0].value)->incarnation : 0;
  };
  ASSERT_TRUE(Register(membership.get(), 1, 5).ok());
  EXPECT_EQ(in_etcd(), 6u);
  EXPECT_EQ(entered_[1], 6u);
  entered_[1] = 20;
  ASSERT_TRUE(Register(membership.get(), 1, 30).ok());
  EXPECT_EQ(in_etcd(), 31u);
  ASSERT_TRUE(client->Put(key, cluster::SerializeAlive({2, "127.0.0.1:7001"}), etcd::kNoLease, Patience()).ok());
  ASSERT_TRUE(Register(membership.get(), 1, 40).ok());
  ASSERT_TRUE(client->Delete(key, false, Patience()).ok());
  ASSERT_TRUE(Register(membership.get(), 1, 50).ok());
  EXPECT_EQ(in_etcd(), 51u);
  {
    // The clock was set back: the incarnation is just greater than the last one.
    const auto node = Register(membership.get(), 1, 51);
    ASSERT_TRUE(node.ok()) << node.status();
    EXPECT_EQ(in_etcd(), 52u);
  }
  for (const uint64_t incarnation : {60u, 70u}) {
    auto full = RegistrationOf(1, incarnation);
    full.keep = [](uint64_t) { return absl::ResourceExhaustedError("the disk is full"); };
    ASSERT_TRUE(cluster::Registration::Start(membership.get(), full, Patience()).ok());
    EXPECT_EQ(in_etcd(), 53u);
  }
  EXPECT_TRUE(events_.Told("the disk is full"));
}

// Such a node could neither copy from the others nor be copied from, and no client could write to it.
TEST_F(RegistrationTest, RefusesNodeWithoutCommonProtocol) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  auto first = Register(membership.get(), 1);
  ASSERT_TRUE(first.ok()) << first.status();
  cluster::RegistrationOptions later = RegistrationOf(2, 1);
  later.record.protocol = {kProtocols.max + 1, kProtocols.max + 2};
  const auto start = [&] {
    later.entered = entered_[2];
    return cluster::Registration::Start(membership.get(), later, Patience());
  };
  const absl::Status refused = start().status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented) << refused;
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr(cluster::IdHex(NodeOf(1))), HasSubstr("127.0.0.1:7001"), HasSubstr("upgrade the node")));
  EXPECT_EQ(membership->view()->status.size(), 1u);
  // A build that also speaks the others' protocol may start; so may any once no other is alive.
  later.record.protocol.min = kProtocols.max;
  EXPECT_TRUE(start().ok());
  later.record.protocol.min = kProtocols.max + 1;
  *first = nullptr;
  ASSERT_TRUE(Eventually([&] { return !AliveIn(*membership->view(), 1); }));
  EXPECT_TRUE(start().ok());
}

// A running node restores its key after its lease has ended or the key was deleted.
TEST_F(RegistrationTest, RenewsLostLease) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  const auto registration = Register(membership.get(), 1);
  ASSERT_TRUE(registration.ok()) << registration.status();
  const auto client = membership->connection()->client();
  const std::string key = cluster::KeyOf("default", cluster::KeyKind::kAlive, NodeOf(1));
  const uint64_t epoch = membership->view()->placement.epoch();
  const cluster::ProgressRecord progress{epoch, 10, 10, 0, 0};
  (*registration)->Publish(progress);
  (*registration)->Publish(cluster::HotRecord{{{{"ns", Identity(), Codec::kQ8}, 1, 7}}, {}});
  ASSERT_TRUE(Eventually([&] { return membership->progress().size() == 1 && membership->view()->hot != nullptr; }));
  for (const bool revoke : {true, false}) {
    const auto found = client->Get(key, {}, Patience());
    ASSERT_TRUE(found.ok() && found->found.size() == 1) << found.status();
    if (revoke) {
      ASSERT_TRUE(client->Revoke(found->found[0].lease, Patience()).ok());
    } else {
      ASSERT_TRUE(client->Delete(key, false, Patience()).ok());
    }
    ASSERT_TRUE(Eventually([&] {
      const auto again = client->Get(key, {}, Patience());
      return again.ok() && again->found.size() == 1 && again->found[0].create_revision > found->found[0].mod_revision;
    }));
    EXPECT_TRUE(Eventually([&] { return membership->progress() == std::map{std::pair(NodeOf(1), progress)}; }));
    EXPECT_TRUE(Eventually([&] { return membership->view()->hot != nullptr; }));
  }
  ASSERT_TRUE(Eventually([&] { return AliveIn(*membership->view(), 1); }));
  EXPECT_EQ(membership->view()->placement.epoch(), epoch);
  EXPECT_FALSE((*registration)->ended().has_value());
}

TEST_F(RegistrationTest, EndsIfMemberWasRemoved) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  const auto stays = Register(membership.get(), 1), goes = Register(membership.get(), 2);
  ASSERT_TRUE(stays.ok() && goes.ok());
  cluster::Connection* const connection = membership->connection();
  EXPECT_EQ(cluster::Remove(connection, NodeOf(2), false, Patience()).status().code(),
            absl::StatusCode::kFailedPrecondition)
      << "it is alive";
  ASSERT_TRUE(cluster::Remove(connection, NodeOf(2), true, Patience()).ok());
  ASSERT_TRUE(Eventually([&] { return (*goes)->ended().has_value(); }));
  EXPECT_EQ((*goes)->ended()->code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE((*stays)->ended().has_value());

  // A member that has drained may leave.
  const auto drains = Register(membership.get(), 3);
  ASSERT_TRUE(drains.ok()) << drains.status();
  const auto joined = cluster::CompleteJoin(connection, NodeOf(3), membership->view()->placement.epoch(), Patience());
  ASSERT_TRUE(joined.ok()) << joined.status();
  const auto drained = cluster::Drain(connection, NodeOf(3), Patience());
  ASSERT_TRUE(drained.ok()) << drained.status();
  ASSERT_TRUE(Eventually([&] { return membership->view()->placement.epoch() == *drained; }));
  ASSERT_TRUE((*drains)->LeaveDrained(*drained, AllFilled, Patience()).ok());
  // Whoever has not seen it in the view yet leaves again.
  EXPECT_EQ((*drains)->LeaveDrained(*drained, AllFilled, Patience()).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Eventually([&] { return (*drains)->ended().has_value(); }));
  EXPECT_TRUE((*drains)->ended()->ok()) << *(*drains)->ended();
}

// etcd was restored without its revisions going back, and the members were not removed. The first to return writes an
// epoch without the other, which learns of all this later.
TEST_F(RegistrationTest, ReturnsUnlessRemoved) {
  StartEtcd(1);
  Create();
  Gate gate;
  const auto membership = Open(), late = OpenBehind(&gate);
  const auto first = Register(membership.get(), 1), second = Register(late.get(), 2);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  ASSERT_TRUE(Eventually([&] { return AliveIn(*membership->view(), 2); }));
  const uint64_t epoch = membership->view()->placement.epoch();
  gate.Set(true);
  const auto forgets = membership->connection()->client()->Commit(
      {{},
       {etcd::DeleteOp{cluster::KeyOf("default", cluster::KeyKind::kMember, NodeOf(1))},
        etcd::DeleteOp{cluster::KeyOf("default", cluster::KeyKind::kMember, NodeOf(2))}},
       {}},
      Patience());
  EXPECT_TRUE(forgets.ok()) << forgets.status();
  EXPECT_TRUE(Eventually([&] {
    const auto view = membership->view();
    return view->placement.epoch() > epoch && AliveIn(*view, 1);
  }));
  gate.Set(false);
  EXPECT_TRUE(Eventually([&] { return AliveIn(*membership->view(), 2); }));
  EXPECT_FALSE((*first)->ended().has_value());
  EXPECT_FALSE((*second)->ended().has_value()) << *(*second)->ended();
}

// A removed node returns only by a restart, as long as its removal is remembered.
TEST_F(RegistrationTest, RemovedNodeReturnsOnlyByRestart) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  cluster::Connection* const connection = membership->connection();
  const auto record = [this](uint8_t node) { return RegistrationOf(node, 1).record; };
  const auto add = [&](uint8_t node) {
    return cluster::AddMember(connection, NodeOf(node), record(node), Patience()).status();
  };
  const auto returns = [&](uint8_t node) {
    return cluster::ReturnMember(connection, NodeOf(node), record(node), Patience()).status();
  };
  const auto remove = [&](uint8_t node) {
    return cluster::Remove(connection, NodeOf(node), true, Patience()).status();
  };
  EXPECT_TRUE(returns(1).ok()) << "etcd does not have it";
  ASSERT_TRUE(remove(1).ok());
  EXPECT_EQ(returns(1).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Eventually([&] { return membership->Removed(NodeOf(1)); }));
  ASSERT_TRUE(add(1).ok());
  EXPECT_TRUE(Eventually([&] { return !membership->Removed(NodeOf(1)); }));
  ASSERT_TRUE(remove(1).ok());
  for (size_t i = 0; i < cluster::kMaxRemoved; ++i) {
    EXPECT_EQ(returns(1).code(), absl::StatusCode::kNotFound);
    const auto other = static_cast<uint8_t>(2 + i);
    ASSERT_TRUE(add(other).ok() && remove(other).ok());
  }
  EXPECT_TRUE(returns(1).ok()) << "it is forgotten";
}

// The node is removed while disconnected; renewing its lease does not make it a member again.
TEST_F(RegistrationTest, EndsIfRemovedWhileDisconnected) {
  StartEtcd(1);
  Create();
  Gate gate;
  const auto membership = OpenBehind(&gate);
  const auto registration = Register(membership.get(), 1);
  ASSERT_TRUE(registration.ok()) << registration.status();
  const auto connection = Connect();
  const auto alive =
      connection->client()->Get(cluster::KeyOf("default", cluster::KeyKind::kAlive, NodeOf(1)), {}, Patience());
  ASSERT_TRUE(alive.ok() && alive->found.size() == 1) << alive.status();
  gate.Set(true);
  const auto removed = cluster::Remove(connection.get(), NodeOf(1), true, Patience());
  EXPECT_TRUE(removed.ok()) << removed.status();
  EXPECT_TRUE(connection->client()->Revoke(alive->found[0].lease, Patience()).ok());
  EXPECT_TRUE(Eventually([&] { return events_.Told("member_lease_lost"); }));
  absl::SleepFor(absl::Seconds(1));  // lets it look a few times; a weaker test if it looks less often
  gate.Set(false);
  ASSERT_TRUE(Eventually([&] { return (*registration)->ended().has_value(); }));
  EXPECT_EQ((*registration)->ended()->code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Open()->view()->status.empty());
}

// A member whose drain was not completed, and that is removed later, has not drained.
TEST_F(RegistrationTest, UnfinishedDrainIsNotReportedAsDrained) {
  StartEtcd(1);
  Create();
  const auto membership = Open();
  const auto stays = Register(membership.get(), 1), goes = Register(membership.get(), 2);
  ASSERT_TRUE(stays.ok() && goes.ok());
  cluster::Connection* const connection = membership->connection();
  const auto drained = cluster::Drain(connection, NodeOf(2), Patience());
  ASSERT_TRUE(drained.ok()) << drained.status();
  etcd_->Kill(0);
  EXPECT_FALSE((*goes)->LeaveDrained(*drained, AllFilled, SteadyNow() + absl::Milliseconds(100)).ok());
  etcd_->Restart(0);
  ASSERT_TRUE(cluster::CancelDrain(connection, NodeOf(2), Patience()).ok());
  ASSERT_TRUE(cluster::Remove(connection, NodeOf(2), true, Patience()).ok());
  ASSERT_TRUE(Eventually([&] { return (*goes)->ended().has_value(); }));
  EXPECT_EQ((*goes)->ended()->code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace kvlink::testing
