// Reads into a device's region: what arrives there is verified there, and whatever stands in the way of that costs a
// way by the host, or a miss, and nothing else.
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/client/device_region.h"
#include "tests/store/client/remote_place.h"
#include "tests/store/synthetic.h"
#include "tests/support/patience.h"

namespace kvlink::testing {
namespace {

using ::testing::HasSubstr;
using transport::Fault;

class DeviceBufferTest : public ::testing::TestWithParam<std::string> {
 protected:
  RemotePlace& Place(RemotePlaceOptions options = {}) {
    options.way = GetParam();
    const auto change = options.client;
    options.client = [change](store::client::RemoteOptions* client) {
      ReachDevices(client);
      if (change) change(client);
    };
    place_ = std::make_unique<RemotePlace>(std::move(options));
    return *place_;
  }
  std::shared_ptr<store::DeviceBuffer> Open() {
    auto receive = place_->remote()->OpenDeviceBuffer(region_.Describe());
    EXPECT_TRUE(receive.ok()) << receive.status();
    return receive.ok() ? *receive : nullptr;
  }
  Synthetic Stored(int number, int64_t layers = 4, int64_t tokens = 600, Codec codec = Codec::kRawBf16) {
    Synthetic s = MakeSynthetic(number, layers, tokens, 3, 16, codec);
    EXPECT_TRUE(place_->remote()->Put("ns", s.manifest, s.spans(), Patience()).ok());
    return s;
  }
  std::unique_ptr<store::Lease> Read(store::DeviceBuffer* buffer, const Synthetic& s) {
    const Manifest& wanted = s.manifest;
    auto lease = place_->remote()->ReadTo(buffer, "ns", wanted.identity, wanted.codec, wanted.etag, Patience());
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? *std::move(lease) : nullptr;
  }
  // Waits for all layers and compares what was verified: all but the padding where they are on the device.
  static absl::Status Compare(store::Lease& lease, const Synthetic& s) {
    for (size_t l = 0; l < s.slabs.size(); ++l) {
      const auto layer = static_cast<int64_t>(l);
      const absl::Status status = lease.WaitLayer(layer, Patience());
      if (!status.ok()) return status;
      const auto got = lease.layer(layer);
      EXPECT_EQ(got.size(), s.slabs[l].size());
      const int64_t bytes = lease.on_device() ? s.manifest.shape(layer).used_bytes() : s.manifest.layers[l].length;
      EXPECT_EQ(std::memcmp(got.data(), s.slabs[l].data(), bytes), 0) << "WRONG BYTES in layer " << l;
    }
    return absl::OkStatus();
  }
  static void AwaitUnused(const store::DeviceBuffer& receive) {
    const absl::Time limit = Patience();
    while (receive.used() > 0 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(receive.used(), 0);
  }

  TestRegion region_{int64_t{2} << 20};  // outlives the client
  std::unique_ptr<RemotePlace> place_;
};
INSTANTIATE_TEST_SUITE_P(Ways, DeviceBufferTest, ::testing::Values("loopback", "ucx"),
                         [](const auto& info) { return info.param; });

TEST_P(DeviceBufferTest, LandsAndIsVerifiedThere) {
  store::client::RemoteStore* const store = Place().remote();
  auto receive = Open();
  int64_t units = 0, pulls = 0;
  for (const Codec codec : {Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    const Synthetic s = Stored(static_cast<int>(codec), 5, 1300, codec);
    auto lease = Read(receive.get(), s);
    EXPECT_TRUE(lease->on_device());
    EXPECT_TRUE(Compare(*lease, s).ok());
    for (int64_t layer = 0; layer < 5; ++layer) EXPECT_TRUE(region_.Holds(lease->layer(layer)));
    EXPECT_GE(receive->used(), s.manifest.bytes());
    EXPECT_EQ(store->Counters().receive_bytes_used, 0) << "nothing of it was on the host";
    EXPECT_EQ(region_.checked, units += static_cast<int64_t>(s.manifest.unit_checksums.size()));
    EXPECT_EQ(store->Counters().device_pulls, ++pulls);
    lease = nullptr;
    AwaitUnused(*receive);
    // The same, to the host, of the same store.
    auto staged = Read(nullptr, s);
    EXPECT_FALSE(staged->on_device());
    EXPECT_TRUE(Compare(*staged, s).ok());
    EXPECT_FALSE(region_.Holds(staged->layer(0)));
  }
  EXPECT_EQ(store->Counters().device_fallbacks, 0);
  // The memory is the caller's again when nobody can write to it any more.
  EXPECT_TRUE(region_.kept());
  receive = nullptr;
  const absl::Time limit = Patience();
  while (region_.kept() && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(region_.kept());
}

TEST_P(DeviceBufferTest, WhatTheWireDamagedIsFoundThere) {
  std::atomic<int64_t> payload{-1};  // the one to damage, counted from here on, by several threads
  RemotePlaceOptions options;
  options.faulty = true;
  options.faults.schedule = [&payload](bool is_payload, int64_t) -> absl::optional<Fault> {
    return is_payload && payload-- == 0 ? Fault::kCorrupt : Fault::kNone;
  };
  RemotePlace& place = Place(options);
  const Synthetic s = Stored(1);
  const auto receive = Open();
  for (int64_t layer = 0; layer < 2; ++layer) {
    payload = layer;
    place.node_faults()->Enable(true);
    auto lease = Read(receive.get(), s);
    EXPECT_TRUE(lease->on_device());
    for (int64_t before = 0; before < layer; ++before) EXPECT_TRUE(lease->WaitLayer(before, Patience()).ok());
    const absl::Status damaged = lease->WaitLayer(layer, Patience());
    EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss) << damaged;
    EXPECT_THAT(damaged.message(), HasSubstr(absl::StrCat("layer ", layer)));
    place.node_faults()->Enable(false);
    EXPECT_EQ(place.remote()->Counters().corrupt_slabs, layer + 1);
    lease = nullptr;
    AwaitUnused(*receive);
    EXPECT_TRUE(Compare(*Read(receive.get(), s), s).ok());
  }
}

TEST_P(DeviceBufferTest, WhatFindsNoRoomThereArrivesOnTheHost) {
  store::client::RemoteStore* const store = Place().remote();
  const Synthetic large = Stored(1, 8, 3000), small = Stored(2);
  ASSERT_GT(large.manifest.bytes(), int64_t{2} << 20);
  const auto receive = Open();
  const auto lease = Read(receive.get(), large);
  EXPECT_FALSE(lease->on_device());
  EXPECT_TRUE(Compare(*lease, large).ok());
  EXPECT_EQ(store->Counters().device_fallbacks, 1);
  EXPECT_EQ(store->Counters().device_pulls, 0);
  EXPECT_EQ(receive->used(), 0);
  // Full of what others read.
  std::vector<std::unique_ptr<store::Lease>> leases;
  while (store->Counters().device_fallbacks == 1) {
    leases.push_back(Read(receive.get(), small));
    ASSERT_TRUE(Compare(*leases.back(), small).ok());
  }
  EXPECT_GT(leases.size(), 2u);
  EXPECT_FALSE(leases.back()->on_device());
  leases.clear();
  AwaitUnused(*receive);
  EXPECT_TRUE(Read(receive.get(), small)->on_device());
}

TEST_P(DeviceBufferTest, WhatIsLetGoGivesItsRoomBack) {
  Place();
  const Synthetic s = Stored(1, 8, 600);
  const auto receive = Open();
  for (int waited = 0; waited < 4; ++waited) {
    auto lease = Read(receive.get(), s);
    ASSERT_TRUE(lease->on_device());
    EXPECT_GT(receive->used(), 0);
    for (int64_t layer = 0; layer < waited; ++layer) EXPECT_TRUE(lease->WaitLayer(layer, Patience()).ok());
    lease = nullptr;
    AwaitUnused(*receive);
  }
  EXPECT_TRUE(Compare(*Read(receive.get(), s), s).ok());
}

// A device that cannot say what it holds: a miss, and no fault of the node's.
TEST_P(DeviceBufferTest, ADeviceThatFailsIsLeftAloneForAWhile) {
  for (const absl::Duration rest : {absl::Hours(1), absl::Milliseconds(1)}) {
    SCOPED_TRACE(rest);
    RemotePlaceOptions options;
    options.client = [rest](store::client::RemoteOptions* client) { client->region_rest = rest; };
    store::client::RemoteStore* const store = Place(options).remote();
    const Synthetic s = Stored(1);
    const auto receive = Open();
    region_.fails = true;
    for (int i = 0; i < 3; ++i) {
      auto lease = Read(receive.get(), s);
      ASSERT_TRUE(lease->on_device());
      EXPECT_EQ(lease->WaitLayer(0, Patience()).code(), absl::StatusCode::kUnavailable);
    }
    EXPECT_EQ(store->Counters().corrupt_slabs, 0);
    EXPECT_EQ(store->Counters().failed_pulls, 3);
    region_.fails = false;
    absl::SleepFor(absl::Milliseconds(5));
    const auto lease = Read(receive.get(), s);
    EXPECT_EQ(lease->on_device(), rest < absl::Seconds(1));
    EXPECT_TRUE(Compare(*lease, s).ok());
    EXPECT_EQ(store->Counters().device_fallbacks, rest < absl::Seconds(1) ? 0 : 1);
  }
}

TEST_P(DeviceBufferTest, RefusesRegionsThatAreNone) {
  store::client::RemoteStore* const store = Place().remote();
  for (int fault = 0; fault < 4; ++fault) {
    store::DeviceRegion region = region_.Describe();
    if (fault == 0) region.data = nullptr;
    if (fault == 1) region.data += 64;
    if (fault == 2) region.bytes = 4095;
    if (fault == 3) region.checksums = nullptr;
    EXPECT_EQ(store->OpenDeviceBuffer(region).status().code(), absl::StatusCode::kInvalidArgument) << fault;
  }
}

// Transports that do not reach it, and memory that is mapped.
class NoDeviceTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Ways, NoDeviceTest, ::testing::Values("loopback", "ucx", "grpc", "mapped"),
                         [](const auto& info) { return info.param; });

TEST_P(NoDeviceTest, SaysSo) {
  RemotePlaceOptions options;
  options.way = GetParam();
  TestRegion region(4096);
  RemotePlace place(options);
  const auto receive = place.remote()->OpenDeviceBuffer(region.Describe());
  if (receive.ok()) GTEST_SKIP() << "this machine's UCX reaches CUDA memory";
  EXPECT_EQ(receive.status().code(), absl::StatusCode::kUnimplemented) << receive.status();
  EXPECT_FALSE(region.kept());
}

}  // namespace
}  // namespace kvlink::testing
