// A replicated store over nodes that answer some requests and not others: their disks hang or are full, or the client
// lacks a right.
#include <array>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "absl/algorithm/container.h"
#include "base/clock.h"
#include "base/worker.h"
#include "gtest/gtest.h"
#include "store/cluster/replicas/breaker.h"
#include "store/cluster/replicas/nodes.h"
#include "tests/store/client/forwarding_transport.h"
#include "tests/store/cluster/replicas/cluster_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"
#include "tests/support/seed.h"
#include "tests/support/stuck_io.h"
#include "transport/ucx/ucx.h"

namespace kvlink::testing {
namespace {

// A connection that sends payloads one at a time, each after a pause.
class SlowConnection : public ForwardingConnection {
 public:
  SlowConnection(std::shared_ptr<transport::Connection> inner, absl::Duration each)
      : ForwardingConnection(std::move(inner)), each_(each) {}
  void Send(uint64_t id, transport::Slice from, absl::Time deadline, transport::Sent done) override {
    const auto send = [this, id, from, deadline, done](const absl::Status& turn) {
      if (!turn.ok()) return done(turn);
      absl::SleepFor(each_);
      ForwardingConnection::Send(id, from, deadline, done);
    };
    EXPECT_TRUE(worker_.AddAdmitted({.work = send}).ok());
  }

 private:
  const absl::Duration each_;
  Worker worker_{{.name = "slow-sends"}};
};

// A network with a SlowConnection to one address.
class SlowNetwork : public ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  // Call before connecting to the address.
  void Slow(const std::string& address, absl::Duration each) {
    address_ = address;
    each_ = each;
  }
  absl::StatusOr<std::shared_ptr<transport::Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                                   std::shared_ptr<transport::ConnectionEvents> events,
                                                                   absl::Time deadline) override {
    auto inner = ForwardingTransport::ConnectAs(caller, address, std::move(events), deadline);
    if (!inner.ok() || address != address_) return inner;
    return std::make_shared<SlowConnection>(*std::move(inner), each_);
  }

 private:
  std::string address_;
  absl::Duration each_;
};

class StuckTest : public ::testing::Test {
 protected:
  static constexpr int kMaxNodes = 3;
  ~StuckTest() override { LetGo(); }
  void Open(ClusterPlaceOptions options) {
    options.node = [this, more = options.node](int number, store::node::NodeOptions* node) {
      node->engine.observer = &disks_[number];
      node->engine.allow_uring = false;  // a hanging disk then blocks its own threads, not its callers
      if (more) more(number, node);
    };
    place_ = std::make_unique<ClusterPlace>(std::move(options));
  }
  store::cluster::ReplicatedStore* store() { return place_->replicated(); }
  bool Holds(int number, const Synthetic& s) {
    const auto found = place_->OpenNode(number)->Lookup("ns", {s.manifest.identity}, s.manifest.codec);
    return found.ok() && (*found)[0].present;
  }
  // Makes the disk of one owner hang; returns the owner's number.
  int HangOwner(const Synthetic& s) {
    const int owner = place_->Owners(s.manifest.identity)[0];
    disks_[owner].Hang();
    return owner;
  }
  void LetGo() {
    for (StuckIo& disk : disks_) disk.LetGo();
  }

  std::array<StuckIo, kMaxNodes> disks_;  // outlive the nodes
  std::unique_ptr<ClusterPlace> place_;
};

TEST_F(StuckTest, PutWithoutCopyDoesNotWaitForHangingDisk) {
  Open({.copies = 3, .acknowledged = 2, .client = [](store::cluster::ReplicatedOptions* options) {
          options->max_rest_bytes = 0;
        }});
  const Synthetic one = MakeSynthetic(1), next = MakeSynthetic(2);
  ASSERT_EQ(Put(store(), one), absl::OkStatus());
  const int64_t before = store()->Counters().lacking;
  HangOwner(next);
  const absl::Time deadline = Patience();
  EXPECT_EQ(Put(store(), next, deadline), absl::OkStatus());
  EXPECT_LT(SteadyNow(), deadline) << "it waited for all owners";
  EXPECT_EQ(store()->Counters().copied_bytes, 0);
  EXPECT_EQ(store()->Counters().lacking, before + 1);
  EXPECT_EQ(ReadAndCompare(store(), "ns", next), absl::OkStatus());
}

TEST_F(StuckTest, SlowNodeTakesPartInEveryPut) {
  auto ucx = transport::NewUcxTransport({});
  ASSERT_TRUE(ucx.ok()) << ucx.status();
  const auto network = std::make_shared<SlowNetwork>(*std::move(ucx));
  Open({.copies = 3, .acknowledged = 2, .client = [&](store::cluster::ReplicatedOptions* options) {
          options->node.transport = network;
        }});
  network->Slow(place_->node(2).data_address(), absl::Milliseconds(40));
  for (int i = 0; i < 3; ++i) ASSERT_EQ(Put(store(), MakeSynthetic(i, 30)), absl::OkStatus());
  // The slow node has completed none of these puts within kNoPutSign.
  absl::SleepFor(store::cluster::kNoPutSign);
  const Synthetic next = MakeSynthetic(10);
  ASSERT_EQ(Put(store(), next), absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return store()->Counters().lacking > 0 || Holds(2, next); }));
  EXPECT_EQ(store()->Counters().lacking, 0);
}

TEST_F(StuckTest, NodeWithHangingDiskRestsDespiteLookups) {
  Open({.nodes = 2});
  std::vector<Synthetic> documents;
  for (int i = 0; i < 8; ++i) {
    documents.push_back(MakeSynthetic(i));
    ASSERT_EQ(Put(store(), documents.back()), absl::OkStatus());
  }
  ASSERT_TRUE(EmptyDramTier(store()));
  disks_[0].Hang();
  const auto read = [&](int round) {
    const Synthetic& one = documents[round % documents.size()];
    const auto found = store()->Lookup("ns", {one.manifest.identity}, one.manifest.codec);
    EXPECT_TRUE(found.ok() && (*found)[0].present) << found.status();
    EXPECT_EQ(ReadAndCompare(store(), "ns", one), absl::OkStatus());
  };
  for (int round = 0; round < 60; ++round) read(round);
  const int64_t stuck = store()->Counters().stuck;
  EXPECT_GT(stuck, 0);
  EXPECT_LT(stuck, 10) << "half of all reads go there";
  LetGo();
  const auto node = place_->OpenNode(0);
  const auto served = [&node] {
    const auto stats = node->Stats();
    return stats.ok() ? stats->hits_dram + stats->hits_segments : 0;
  };
  const int64_t before = served();
  int round = 0;
  EXPECT_TRUE(Eventually([&] {
    read(round++);
    return served() > before + 10;
  })) << "it serves reads again";
}

TEST_F(StuckTest, RefusalEndsRest) {
  constexpr int64_t kCapacity = 8 << 20;
  Open({.nodes = 2,
        .copies = 2,
        .acknowledged = 1,
        .node =
            [](int number, store::node::NodeOptions* node) {
              if (number == 1) node->engine.capacity_bytes = kCapacity;
            },
        .client = [](store::cluster::ReplicatedOptions* options) { options->node.silence = absl::Milliseconds(200); }});
  place_->Stop(1);
  const auto lacking = [this] { return store()->Counters().lacking; };
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Put(store(), MakeSynthetic(i)), absl::OkStatus());
    ASSERT_TRUE(Eventually([&] { return lacking() == i + 1; }));
  }
  place_->Start(1);
  const Synthetic there = MakeSynthetic(20);
  ASSERT_EQ(Put(place_->OpenNode(1).get(), there), absl::OkStatus());
  ASSERT_TRUE(Eventually([&] {
    const auto found = store()->Lookup("ns", {there.manifest.identity}, there.manifest.codec);
    return found.ok() && (*found)[0].present;
  })) << "it is connected";
  absl::SleepFor(store::cluster::Breaker::kFirstRest);
  const Synthetic large = MakeSynthetic(10, 6, 4096, 2, 64);
  ASSERT_GT(large.manifest.bytes(), kCapacity);
  ASSERT_EQ(Put(store(), large), absl::OkStatus());
  ASSERT_TRUE(Eventually([&] { return lacking() == 4; })) << "one node has no room for it";
  const Synthetic next = MakeSynthetic(11);
  ASSERT_EQ(Put(store(), next), absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return lacking() == 5 || Holds(1, next); }));
  EXPECT_TRUE(Holds(1, next));
}

TEST_F(StuckTest, AsksRestingNodeIfOthersFail) {
  Open({.nodes = 2});
  const Synthetic one = MakeSynthetic(1);
  ASSERT_EQ(Put(store(), one), absl::OkStatus());
  place_->Stop(0);
  ASSERT_TRUE(Eventually([&] { return place_->Report(0).resting; }));
  place_->Start(0);
  place_->Stop(1);
  const int64_t before = store()->Counters().read_requests;
  store()->Read("ns", one.manifest.identity, one.manifest.codec, one.manifest.etag, Patience()).status().IgnoreError();
  EXPECT_EQ(store()->Counters().read_requests, before + 2);
  EXPECT_TRUE(Eventually([&] { return ReadAndCompare(store(), "ns", one).ok(); }));
}

TEST_F(StuckTest, UnawaitedPutEndsAtDeadline) {
  Open({.nodes = 2, .copies = 2, .acknowledged = 1});
  disks_[1].Hang();
  const absl::Time begun = SteadyNow();
  ASSERT_EQ(Put(store(), MakeSynthetic(1), begun + absl::Seconds(1)), absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return store()->Counters().lacking == 1; }));
  EXPECT_LT(SteadyNow(), begun + absl::Seconds(20)) << "it continued after its deadline";
}

TEST_F(StuckTest, DeathOfNodeDoesNotCountAsPutFailure) {
  Open({.nodes = 2});
  disks_[1].Hang();
  std::vector<std::thread> puts;
  for (int i = 0; i < store::cluster::Breaker::kFailuresInARow; ++i) {
    puts.emplace_back([&, i] { EXPECT_TRUE(absl::IsUnavailable(Put(store(), MakeSynthetic(i)))); });
  }
  const auto node = place_->OpenNode(0);
  EXPECT_TRUE(Eventually([&] {
    const auto listed = node->ListEncodings("ns", {}, 10);
    return listed.ok() && listed->size() == puts.size();
  })) << "the other owner has them";
  place_->members()[1].alive = false;
  place_->Publish();
  for (std::thread& put : puts) put.join();
  LetGo();
  place_->members()[1].alive = true;
  place_->Publish();
  EXPECT_EQ(Put(store(), MakeSynthetic(10)), absl::OkStatus());
}

TEST_F(StuckTest, SlowReadsWithProgressAreNotMisses) {
  constexpr int kDocuments = 60;
  static constexpr absl::Duration kPatience = absl::Seconds(1);
  Open({.nodes = 1,
        .copies = 1,
        .acknowledged = 1,
        .node = [](int, store::node::NodeOptions* node) { node->limits.pulls_per_connection = 1; },
        .client = [](store::cluster::ReplicatedOptions* options) { options->patience = kPatience; }});
  std::vector<Synthetic> documents;
  std::vector<store::ReadRequest> wanted;
  for (int i = 0; i < kDocuments; ++i) {
    documents.push_back(MakeSynthetic(i));
    ASSERT_EQ(Put(store(), documents[i]), absl::OkStatus());
    wanted.push_back({documents[i].manifest.identity, documents[i].manifest.etag});
  }
  ASSERT_TRUE(EmptyDramTier(store()));
  disks_[0].Slow(2 * kPatience / kDocuments);
  const auto leases = store()->ReadMany(nullptr, "ns", Codec::kRawBf16, wanted, Patience());
  for (int i = 0; i < kDocuments; ++i) {
    ASSERT_TRUE(leases[i].ok()) << i << ": " << leases[i].status();
    EXPECT_EQ(CompareLayer(leases[i]->get(), documents[i], 0, Patience()), absl::OkStatus());
  }
}

TEST_F(StuckTest, ForbiddenReadIsNotMiss) {
  const ScratchDirectory directory(/*in_memory=*/true);
  const std::string file = directory.path() + "/access";
  WriteAccessFile(file, "reader sixteen-letters-r read other\n");
  Open({.node = [&](int, store::node::NodeOptions* node) { node->access_file = file; },
        .client = [](store::cluster::ReplicatedOptions* options) { options->node.key = "sixteen-letters-r"; }});
  const Synthetic one = MakeSynthetic(1);
  const auto read = [&](const std::string& ns) {
    return store()->Read(ns, one.manifest.identity, one.manifest.codec, one.manifest.etag, Patience()).status();
  };
  EXPECT_EQ(read("ns").code(), absl::StatusCode::kPermissionDenied) << read("ns");
  EXPECT_EQ(read("other").code(), absl::StatusCode::kNotFound) << read("other");
}

// A lease whose first owner has a damaged copy, while the disk of the other owner hangs.
class StuckLeaseTest : public StuckTest {
 protected:
  void OpenDamaged(std::function<void(store::cluster::ReplicatedOptions*)> client = {}) {
    Open({.nodes = 2, .client = std::move(client)});
    ASSERT_EQ(Put(store(), one_), absl::OkStatus());
    ASSERT_TRUE(EmptyDramTier(store()));
    ASSERT_GT(FlipOnDisk(place_->node(0).directory() + "/store", one_), 0);
    Lease(/*other=*/1);
  }
  // Takes a lease from one owner, since the disk of the other hangs.
  void Lease(int other) {
    disks_[other].Hang();
    auto lease = store()->Read("ns", one_.manifest.identity, one_.manifest.codec, one_.manifest.etag, Patience());
    ASSERT_TRUE(lease.ok()) << lease.status();
    lease_ = *std::move(lease);
  }
  ~StuckLeaseTest() override {
    LetGo();
    lease_ = nullptr;
  }
  // Waits until an owner has been asked since `before` was taken.
  void AwaitRequest(int64_t before) {
    EXPECT_TRUE(Eventually([&] { return store()->Counters().read_requests > before; }));
  }

  const Synthetic one_ = MakeSynthetic(2, 6);
  std::unique_ptr<store::Lease> lease_;
};

TEST_F(StuckLeaseTest, ConcurrentCallersAwaitNextOwner) {
  ASSERT_NO_FATAL_FAILURE(OpenDamaged());
  const int64_t before = store()->Counters().read_requests;
  std::thread first([&] { EXPECT_EQ(CompareLayer(lease_.get(), one_, 0, Patience()), absl::OkStatus()); });
  AwaitRequest(before);
  std::thread second([&] { EXPECT_EQ(CompareLayer(lease_.get(), one_, 5, Patience()), absl::OkStatus()); });
  absl::SleepFor(absl::Milliseconds(50));
  LetGo();
  first.join();
  second.join();
}

TEST_F(StuckLeaseTest, AsksOwnerAgainThatRanOutOfTime) {
  ASSERT_NO_FATAL_FAILURE(OpenDamaged());
  const absl::Status hurried = lease_->WaitLayer(0, SteadyNow() + absl::Milliseconds(50));
  EXPECT_TRUE(absl::IsDeadlineExceeded(hurried)) << hurried;
  LetGo();
  EXPECT_EQ(CompareLayer(lease_.get(), one_, 0, Patience()), absl::OkStatus());
}

TEST_F(StuckLeaseTest, FirstOwnerMayDeliverWhileNextIsAsked) {
  Open(
      {.nodes = 2, .client = [](store::cluster::ReplicatedOptions* options) { options->patience = absl::Minutes(2); }});
  ASSERT_EQ(Put(store(), one_), absl::OkStatus());
  ASSERT_TRUE(EmptyDramTier(store()));
  disks_[0].Hang(/*after=*/1);  // the manifest
  ASSERT_NO_FATAL_FAILURE(Lease(/*other=*/1));
  const int64_t before = store()->Counters().read_requests;
  std::thread later([&] {
    AwaitRequest(before);
    disks_[0].LetGo();
  });
  EXPECT_EQ(CompareLayer(lease_.get(), one_, 0, Patience()), absl::OkStatus());
  later.join();
}

}  // namespace
}  // namespace kvlink::testing
