// A replicated store over nodes whose disks hang or are full: they answer what they know from memory, and nothing else.
#include <array>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "absl/algorithm/container.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/store/cluster/replicas/cluster_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/seed.h"
#include "tests/support/stuck_io.h"

namespace kvlink::testing {
namespace {

absl::Time Soon() { return SteadyNow() + absl::Seconds(60); }

absl::Status Put(store::Store* store, const Synthetic& s, absl::Time deadline = Soon()) {
  return store->Put("ns", s.manifest, s.spans(), deadline).status();
}

// Waits until it holds; false: it never did.
bool Eventually(const std::function<bool()>& holds) {
  for (const absl::Time limit = Soon(); SteadyNow() < limit; absl::SleepFor(absl::Milliseconds(5))) {
    if (holds()) return true;
  }
  return false;
}

class StuckTest : public ::testing::Test {
 protected:
  static constexpr int kMaxNodes = 3;
  ~StuckTest() override { LetGo(); }
  void Open(ClusterPlaceOptions options) {
    options.node = [this](int number, store::node::NodeOptions* node) { node->engine.observer = &disks_[number]; };
    place_ = std::make_unique<ClusterPlace>(std::move(options));
  }
  store::cluster::ReplicatedStore* store() { return place_->replicated(); }
  // The disk of an owner of it; returns which.
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

TEST_F(StuckTest, APutOfWhichThereIsNoCopyDoesNotWaitForADiskThatHangs) {
  Open({.copies = 3, .acknowledged = 2, .client = [](store::cluster::ReplicatedOptions* options) {
          options->max_rest_bytes = 0;
        }});
  const Synthetic one = MakeSynthetic(1), next = MakeSynthetic(2);
  ASSERT_EQ(Put(store(), one), absl::OkStatus());
  EXPECT_EQ(store()->Counters().lacking, 0) << "owners that take bytes are waited for";
  HangOwner(next);
  const absl::Time deadline = Soon();
  EXPECT_EQ(Put(store(), next, deadline), absl::OkStatus());
  EXPECT_LT(SteadyNow(), deadline) << "it waited for all owners";
  EXPECT_EQ(store()->Counters().copied_bytes, 0);
  EXPECT_EQ(store()->Counters().lacking, 1);
  EXPECT_EQ(ReadAndCompare(store(), "ns", next), absl::OkStatus());
}

}  // namespace
}  // namespace kvlink::testing
