// Two processes that are one node: who keeps the place, what the other may still write, and what its directory keeps.
#include "gmock/gmock.h"
#include "store/cluster/members/registration.h"
#include "tests/store/cluster/cluster_etcd.h"

namespace kvlink::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class LostPlaceTest : public ClusterTest {
 protected:
  void SetUp() override {
    ClusterTest::SetUp();
    if (IsSkipped()) return;
    StartEtcd(1);
    Create();
  }
  static std::string Key(cluster::KeyKind kind) { return cluster::KeyOf("default", kind, NodeOf(1)); }
  etcd::KeyValue Found(cluster::KeyKind kind) const {
    const auto got = Connect()->client()->Get(Key(kind), {}, Patience());
    EXPECT_TRUE(got.ok()) << got.status();
    return got.ok() && got->found.size() == 1 ? got->found[0] : etcd::KeyValue();
  }
  bool Missing(cluster::KeyKind kind) const {
    const auto got = Connect()->client()->Get(Key(kind), {}, Patience());
    EXPECT_TRUE(got.ok()) << got.status();
    return got.ok() && got->found.empty();
  }
  // What a process at another address writes that takes the node's place. Returns its lease.
  etcd::LeaseId TakePlace(uint64_t incarnation) const {
    const auto connection = Connect();
    const auto lease = connection->client()->Grant(absl::Hours(1), Patience());
    EXPECT_TRUE(lease.ok()) << lease.status();
    const std::string record = cluster::SerializeAlive({incarnation, "127.0.0.1:7999"});
    const auto taken = connection->client()->Commit({{},
                                                     {etcd::PutOp{Key(cluster::KeyKind::kAlive), record, lease->id},
                                                      etcd::PutOp{Key(cluster::KeyKind::kEntered), record}},
                                                     {}},
                                                    Patience());
    EXPECT_TRUE(taken.ok()) << taken.status();
    return lease->id;
  }
};

// A machine that was cloned with its unit file: both processes advertise one address, and only the first has what was
// stored since.
TEST_F(LostPlaceTest, ACloneDoesNotTakeTheAddressThatItAdvertises) {
  const auto membership = Open();
  const auto node = Register(membership.get(), 1, 5);
  ASSERT_TRUE(node.ok()) << node.status();
  auto clone = RegistrationOf(1, 9);
  clone.listens_there = false;
  clone.keep = [](uint64_t) { return absl::InternalError("a refused directory is left as it is"); };
  const absl::Status refused = cluster::Registration::Start(membership.get(), clone, Patience()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("127.0.0.1:7001"));
  EXPECT_FALSE((*node)->ended().has_value());
  EXPECT_EQ(*membership->view()->status[0].incarnation, 5u);
}

// It may be the node's own: the other's may have been copied from it.
TEST_F(LostPlaceTest, TheDirectoryOfADisplacedProcessIsNotCalledOlder) {
  const auto membership = Open();
  const auto node = Register(membership.get(), 1, 5);
  ASSERT_TRUE(node.ok()) << node.status();
  const auto other = Register(membership.get(), 1, 9);
  ASSERT_TRUE(other.ok()) << other.status();
  ASSERT_TRUE(Eventually([&] { return (*node)->ended().has_value(); }));
  EXPECT_EQ((*node)->ended()->code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string((*node)->ended()->message()),
              AllOf(HasSubstr("lost its place"), HasSubstr("before you delete any"), Not(HasSubstr("older"))));
}

// The other's number may be the next one.
TEST_F(LostPlaceTest, TheDirectoryOfADisplacedProcessKeepsItsNumber) {
  const auto membership = Open();
  auto node = Register(membership.get(), 1, 5);
  ASSERT_TRUE(node.ok()) << node.status();
  ASSERT_EQ(entered_[1], 5u);
  TakePlace(6);
  ASSERT_TRUE(Eventually([&] { return (*node)->ended().has_value(); }));
  EXPECT_EQ((*node)->ended()->code(), absl::StatusCode::kAlreadyExists);
  *node = nullptr;
  EXPECT_EQ(entered_[1], 5u);
}

// It ends before it has learnt of it.
TEST_F(LostPlaceTest, AProcessThatEndsWithoutItsPlaceGivesItsNumberBack) {
  Gate gate;
  const auto membership = OpenBehind(&gate);
  auto node = Register(membership.get(), 1, 5);
  ASSERT_TRUE(node.ok()) << node.status();
  gate.Set(true);
  TakePlace(6);
  *node = nullptr;
  gate.Set(false);
  EXPECT_EQ(entered_[1], 5u);
}

// As if etcd carried out an earlier write late.
TEST_F(LostPlaceTest, WhatTheNodePublishedLastIsWrittenAgain) {
  const auto membership = Open();
  const auto node = Register(membership.get(), 1, 5);
  ASSERT_TRUE(node.ok()) << node.status();
  const uint64_t epoch = membership->view()->placement.epoch();
  const cluster::ProgressRecord complete{epoch, 100, 100, 0, 0}, before{epoch, 100, 40, 1000, 0};
  const cluster::HotRecord hot{{}, {{"ns", Identity(), Codec::kQ8}}};
  (*node)->Publish(complete);
  (*node)->Publish(hot);
  const auto shows = [&](const cluster::ProgressRecord& progress) {
    return membership->progress() == std::map{std::pair(NodeOf(1), progress)};
  };
  ASSERT_TRUE(Eventually([&] { return shows(complete) && membership->view()->hot != nullptr; }));
  const etcd::LeaseId lease = Found(cluster::KeyKind::kAlive).lease;
  const auto connection = Connect();
  const auto put = [&](cluster::KeyKind kind, const std::string& record) {
    const auto done = connection->client()->Put(Key(kind), record, lease, Patience());
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_TRUE(Eventually([&] { return Found(kind).value != record; }));
  };
  put(cluster::KeyKind::kProgress, cluster::SerializeProgress(before));
  EXPECT_TRUE(Eventually([&] { return shows(complete); }));
  put(cluster::KeyKind::kHot, cluster::SerializeHot({}));
  EXPECT_TRUE(Eventually([&] { return membership->view()->hot != nullptr; }));
  // What is there is not written again and again.
  const int64_t revision = Found(cluster::KeyKind::kProgress).mod_revision;
  absl::SleepFor(absl::Seconds(2));  // a weaker test if it looks less often
  EXPECT_EQ(Found(cluster::KeyKind::kProgress).mod_revision, revision);
}

// More changes would keep a view late that is. It does not show a record that is refused, either.
TEST_F(LostPlaceTest, WhatTheViewDoesNotShowIsWrittenOnce) {
  const auto membership = Open();
  auto options = RegistrationOf(1, 5);
  options.ttl = absl::Minutes(1);
  const auto node = cluster::Registration::Start(membership.get(), options, Patience());
  ASSERT_TRUE(node.ok()) << node.status();
  (*node)->Publish(cluster::ProgressRecord{1, 10, 11, 0, 0});
  ASSERT_TRUE(Eventually([&] { return !Found(cluster::KeyKind::kProgress).value.empty(); }));
  const int64_t revision = Found(cluster::KeyKind::kProgress).mod_revision;
  absl::SleepFor(absl::Seconds(3));  // a weaker test if it looks less often
  EXPECT_EQ(Found(cluster::KeyKind::kProgress).mod_revision, revision);
  EXPECT_TRUE(membership->progress().empty());
}

// It is back before the node's lease ends, at a revision below what the client of the lease has seen.
TEST_F(LostPlaceTest, ANodePublishesOnceEtcdWentBack) {
  const auto membership = Open();
  auto options = RegistrationOf(1, 5);
  options.ttl = absl::Minutes(1);
  auto node = cluster::Registration::Start(membership.get(), options, Patience());
  ASSERT_TRUE(node.ok()) << node.status();
  const etcd::LeaseId lease = Found(cluster::KeyKind::kAlive).lease;
  etcd_->Backup();
  const auto client = membership->connection()->client();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(Eventually([&] { return client->Put("default/seen", "", etcd::kNoLease, Patience()).ok(); }));
  }
  etcd_->Restore();
  ASSERT_TRUE(Eventually([&] { return events_.Told("etcd_set_back"); })) << membership->health().status;
  const cluster::ProgressRecord progress{membership->view()->placement.epoch(), 10, 3, 0, 0};
  (*node)->Publish(progress);
  EXPECT_TRUE(Eventually([&] { return membership->progress() == std::map{std::pair(NodeOf(1), progress)}; }));
  EXPECT_EQ(Found(cluster::KeyKind::kAlive).lease, lease) << "it entered anew";
  *node = nullptr;
  const auto left = cluster::ParseAlive(Found(cluster::KeyKind::kEntered).value);
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_EQ(left->incarnation, entered_[1]) << "copies of its directory are not outdated";
}

// Its lease may not have ended yet when the next process enters.
TEST_F(LostPlaceTest, WhatTheProcessBeforePublishedIsGone) {
  const auto connection = Connect();
  const auto lease = connection->client()->Grant(absl::Hours(1), Patience());
  ASSERT_TRUE(lease.ok()) << lease.status();
  for (const cluster::KeyKind kind : {cluster::KeyKind::kProgress, cluster::KeyKind::kHot}) {
    ASSERT_TRUE(connection->client()->Put(Key(kind), "of before", lease->id, Patience()).ok());
  }
  const auto membership = Open();
  const auto node = Register(membership.get(), 1);
  ASSERT_TRUE(node.ok()) << node.status();
  for (const cluster::KeyKind kind : {cluster::KeyKind::kProgress, cluster::KeyKind::kHot}) {
    EXPECT_TRUE(Missing(kind));
  }
}

// What it writes would be under its own lease, and go with that.
TEST_F(LostPlaceTest, ADisplacedProcessPublishesNothing) {
  Gate gate;
  const auto membership = OpenBehind(&gate);
  const auto node = Register(membership.get(), 1, 5);
  ASSERT_TRUE(node.ok()) << node.status();
  gate.Set(true);
  const etcd::LeaseId lease = TakePlace(9);
  const std::string record = cluster::SerializeProgress({1, 10, 3, 0, 0});
  const auto connection = Connect();
  EXPECT_TRUE(connection->client()->Put(Key(cluster::KeyKind::kProgress), record, lease, Patience()).ok());
  (*node)->Publish(cluster::ProgressRecord{1, 10, 10, 0, 0});
  absl::SleepFor(absl::Seconds(1));  // lets it try a few times; a weaker test if it tries less often
  EXPECT_EQ(Found(cluster::KeyKind::kProgress).value, record);
  EXPECT_EQ(Found(cluster::KeyKind::kProgress).lease, lease);
  gate.Set(false);
}

// A user that may read alone is refused after the number was kept.
class RefusedEntryTest : public LostPlaceTest {
 protected:
  // Starts the node again under this user. `kept`: the numbers that its directory was to keep.
  absl::Status StartAsReader(absl::Status given_back, std::vector<uint64_t>* kept) {
    cluster::MembershipOptions options;
    options.address = Address();
    options.address.etcd.user = options.address.etcd.password = "observer";
    const auto membership = cluster::Membership::Open(std::move(options), Patience());
    EXPECT_TRUE(membership.ok()) << membership.status();
    if (!membership.ok()) return membership.status();
    auto registration = RegistrationOf(1, 100);
    registration.keep = [&, before = registration.entered](uint64_t entered) {
      kept->push_back(entered);
      return entered == before ? given_back : absl::OkStatus();
    };
    return cluster::Registration::Start(membership->get(), registration, Patience()).status();
  }
  void AllowOnlyReading() {
    const auto post = [this](const char* path, const std::string& json) {
      ASSERT_NE(etcd_->Post(0, path, json), "") << json;
    };
    post("/v3/auth/user/add", R"({"name":"observer","password":"observer"})");
    post("/v3/auth/role/add", R"({"name":"observer"})");
    post("/v3/auth/user/grant", R"({"user":"observer","role":"observer"})");
    // "/kvlink/" and all below it.
    post("/v3/auth/role/grant",
         R"({"name":"observer","perm":{"permType":"READ","key":"L2t2bGluay8=","range_end":"L2t2bGluazA="}})");
    etcd_->EnableAuthentication();
  }
};

TEST_F(RefusedEntryTest, AnEntryThatWasNotWrittenGivesItsNumberBack) {
  {
    const auto membership = Open();
    ASSERT_TRUE(Register(membership.get(), 1, 5).ok());
  }
  AllowOnlyReading();
  std::vector<uint64_t> kept;
  absl::Status refused = StartAsReader(absl::OkStatus(), &kept);
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied) << refused;
  EXPECT_THAT(kept, ElementsAre(100u, entered_[1]));
  EXPECT_FALSE(events_.Told("member_entry_not_given_back"));
  refused = StartAsReader(absl::InternalError("the disk is full"), &kept);
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied) << refused;
  EXPECT_TRUE(events_.Told("member_entry_not_given_back: the disk is full"));
}

}  // namespace
}  // namespace kvlink::testing
