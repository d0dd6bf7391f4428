// A node of a cluster, over each carrier: it serves what it has, and what it owns by either epoch; of the rest it says
// that it has moved, so that a client can tell and look again.
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/store/client/remote_place.h"
#include "tests/store/node/fake_ownership.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

class OwnershipTest : public ::testing::TestWithParam<const char*> {
 protected:
  void Start(bool in_cluster) {
    RemotePlaceOptions options;
    options.way = GetParam();
    options.node = [this, in_cluster](store::node::NodeOptions* node) {
      if (in_cluster) node->ownership = ownership_;
    };
    options.client = [this](store::client::RemoteOptions* client) {
      client->placement = [this] { return asked_.load(); };
    };
    place_ = std::make_unique<RemotePlace>(std::move(options));
  }
  store::client::RemoteStore* remote() { return place_->remote(); }
  absl::Status Put(const Synthetic& s) { return remote()->Put("ns", s.manifest, s.spans(), Patience()).status(); }
  absl::Status Read(const Synthetic& s) {
    const auto lease = remote()->Read("ns", s.manifest.identity, s.manifest.codec, s.manifest.etag, Patience());
    if (!lease.ok()) return lease.status();
    for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
      const absl::Status status = CompareLayer(lease->get(), s, layer, Patience());
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  absl::Status Pin(const Synthetic& s) { return remote()->Pin("ns", s.manifest.identity, s.manifest.codec); }

  const Synthetic ours_ = MakeSynthetic(1), before_ = MakeSynthetic(2), next_ = MakeSynthetic(3),
                  theirs_ = MakeSynthetic(4), absent_ = MakeSynthetic(5);
  const std::shared_ptr<FakeOwnership> ownership_ = std::make_shared<FakeOwnership>();
  std::atomic<uint64_t> asked_{0};
  std::unique_ptr<RemotePlace> place_;
};

INSTANTIATE_TEST_SUITE_P(Ways, OwnershipTest, ::testing::Values("loopback", "ucx", "grpc", "mapped"),
                         [](const auto& info) { return info.param; });

TEST_P(OwnershipTest, WhatIsOwnedByEitherEpochIsServedAndTheRestHasMoved) {
  ownership_->Own(4, {before_.manifest.identity});
  ownership_->Own(5, {ours_.manifest.identity, absent_.manifest.identity});
  ownership_->MoveTo(4);
  Start(/*in_cluster=*/true);
  asked_ = 4;
  EXPECT_EQ(Put(before_), absl::OkStatus());
  EXPECT_EQ(MovedEpoch(Put(ours_)), 4u);
  ownership_->MoveTo(5);
  asked_ = 5;
  EXPECT_EQ(Put(ours_), absl::OkStatus());
  EXPECT_EQ(MovedEpoch(Put(before_)), 5u);
  EXPECT_EQ(MovedEpoch(Put(theirs_)), 5u);
  // By whatever epoch he asks who puts: a copy counts only where it belongs now.
  asked_ = 4;
  EXPECT_EQ(MovedEpoch(Put(before_)), 5u);
  EXPECT_EQ(Put(MakeSynthetic(1)), absl::OkStatus());
  EXPECT_EQ(MovedEpoch(Put(theirs_)), 5u);
  asked_ = 6;
  EXPECT_EQ(Put(ours_), absl::OkStatus());
  EXPECT_EQ(MovedEpoch(Put(theirs_)), 5u);
  EXPECT_EQ(MovedEpoch(Put(before_)), 5u) << "there, but not a replica that counts";
  asked_ = 0;
  EXPECT_EQ(MovedEpoch(Put(theirs_)), 5u);

  // What is here is served, whoever owns it: bytes are named by their etag.
  asked_ = 5;
  EXPECT_EQ(Read(ours_), absl::OkStatus());
  EXPECT_EQ(Read(before_), absl::OkStatus());
  const absl::Status moved = Read(theirs_);
  EXPECT_EQ(moved.code(), absl::StatusCode::kFailedPrecondition) << moved;
  EXPECT_EQ(MovedEpoch(moved), 5u);
  const absl::Status missed = Read(absent_);
  EXPECT_EQ(missed.code(), absl::StatusCode::kNotFound) << missed;
  EXPECT_EQ(MovedEpoch(missed), std::nullopt);
  std::vector<store::ReadRequest> wanted;
  for (const Synthetic* s : {&theirs_, &before_, &absent_}) wanted.push_back({s->manifest.identity, s->manifest.etag});
  const auto leases = remote()->ReadMany(nullptr, "ns", Codec::kRawBf16, wanted, Patience());
  ASSERT_EQ(leases.size(), 3u);
  EXPECT_EQ(MovedEpoch(leases[0].status()), 5u);
  EXPECT_EQ(leases[1].status(), absl::OkStatus());
  EXPECT_EQ(leases[2].status().code(), absl::StatusCode::kNotFound);

  std::vector<Identity> identities;
  for (const Synthetic* s : {&ours_, &before_, &theirs_, &absent_}) identities.push_back(s->manifest.identity);
  const auto found = remote()->Lookup("ns", identities, Codec::kRawBf16);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE((*found)[0].present && (*found)[1].present);
  EXPECT_FALSE((*found)[2].present || (*found)[3].present);
  EXPECT_EQ((*found)[0].moved, std::nullopt);
  EXPECT_EQ((*found)[1].moved, std::nullopt);
  EXPECT_EQ((*found)[2].moved, 5u);
  EXPECT_EQ((*found)[3].moved, std::nullopt);
  EXPECT_EQ(remote()->Counters().retries, 0) << "asking the same node again changes nothing";
}

TEST_P(OwnershipTest, ActionsAreDoneHereAndMoveToTheOwner) {
  ownership_->Own(1, {ours_.manifest.identity, before_.manifest.identity});
  ownership_->MoveTo(1);
  Start(/*in_cluster=*/true);
  asked_ = 1;
  ASSERT_EQ(Put(ours_), absl::OkStatus());
  ASSERT_EQ(Put(before_), absl::OkStatus());
  ownership_->Own(2, {ours_.manifest.identity, next_.manifest.identity});
  ownership_->MoveTo(2);
  asked_ = 2;
  EXPECT_EQ(Pin(ours_), absl::OkStatus());
  EXPECT_EQ(Pin(before_), absl::OkStatus());
  EXPECT_EQ(MovedEpoch(Pin(theirs_)), 2u);
  EXPECT_TRUE(absl::IsNotFound(Pin(next_)));
  EXPECT_EQ(remote()->Unpin("ns", before_.manifest.identity, Codec::kRawBf16), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(remote()->Unpin("ns", before_.manifest.identity, Codec::kRawBf16)));
  // It is gone here, and the owner has to be told as well.
  EXPECT_EQ(MovedEpoch(remote()->Remove("ns", before_.manifest.identity)), 2u);
  EXPECT_EQ(MovedEpoch(Read(before_)), 2u);
  EXPECT_EQ(remote()->Remove("ns", ours_.manifest.identity), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(Read(ours_)));
  // The client looks again, and goes on.
  EXPECT_EQ(Put(next_), absl::OkStatus());
  EXPECT_EQ(Read(next_), absl::OkStatus());
}

TEST_P(OwnershipTest, ANodeThatStandsAloneServesEveryEpoch) {
  Start(/*in_cluster=*/false);
  for (const uint64_t epoch : {uint64_t{0}, uint64_t{7}, UINT64_MAX}) {
    asked_ = epoch;
    EXPECT_EQ(Put(ours_), absl::OkStatus());
    EXPECT_EQ(Read(ours_), absl::OkStatus());
    EXPECT_TRUE(absl::IsNotFound(Read(absent_)));
    EXPECT_EQ(remote()->Remove("ns", ours_.manifest.identity), absl::OkStatus());
  }
}

}  // namespace
}  // namespace kvlink::testing
