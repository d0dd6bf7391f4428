// Documents that land in the device's memory straight from the network: the same answers, to the bit, as by way of the
// host; and that way wherever this one is not to be had. Over UCX's tcp, and an emulated device, whose memory UCX takes
// for the host's.
#include "base/clock.h"
#include "gmock/gmock.h"
#include "tests/store/client/device_region.h"
#include "tests/store/client/remote_place.h"
#include "tests/support/cuda_emulation/backend.h"
#include "tests/worker/infer/fixture.h"

namespace kvlink::infer {
namespace {

using transport::Fault;

class LandingTest : public EngineTest {
 protected:
  ~LandingTest() override { testing::SetEmulatedDeviceExhausted(false); }
  testing::RemotePlace& Place(testing::RemotePlaceOptions options = {}, bool reaches = true) {
    options.way = "ucx";
    if (reaches) options.client = testing::ReachDevices;
    place_ = std::make_unique<testing::RemotePlace>(std::move(options));
    return *place_;
  }
  EngineOptions Landing(Codec codec, int64_t bytes = int64_t{16} << 20) const {
    EngineOptions options = Options(codec);
    options.landing_bytes = bytes;
    return options;
  }
  std::unique_ptr<Engine> NewEngine(const EngineOptions& options) { return MakeEngine(place_->store(), options); }
  void Fill(Codec codec) {
    const auto engine = NewEngine(Options(codec));
    Start(*engine, Ask());
    ASSERT_TRUE(engine->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
    ASSERT_EQ(engine->stats().write_back.written, 4) << engine->stats().write_back.last_error;
  }
  // By way of the host.
  std::vector<float> Staged(Codec codec) {
    const auto engine = NewEngine(Options(codec));
    const auto conversation = Start(*engine, Ask());
    EXPECT_EQ(conversation->stats().documents_direct, 0);
    EXPECT_EQ(engine->stats().encoded, 0);
    return LogitsOf(*conversation);
  }
  static void AwaitUnused(const Engine& engine) {
    const absl::Time limit = SteadyNow() + absl::Seconds(60);
    while (engine.stats().pool.landing_bytes > 0 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(engine.stats().pool.landing_bytes, 0);
  }

  std::unique_ptr<testing::RemotePlace> place_;
};

TEST_P(LandingTest, AnswersAreThoseOfTheWayByTheHost) {
  Place();
  for (const Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    SCOPED_TRACE(std::string(CodecName(codec)));
    Fill(codec);
    const std::vector<float> staged = Staged(codec);
    const auto engine = NewEngine(Landing(codec));
    EXPECT_TRUE(engine->landing().ok()) << engine->landing();
    const int64_t pulls = place_->remote()->Counters().device_pulls;
    const auto conversation = Start(*engine, Ask());
    EXPECT_EQ(LogitsOf(*conversation), staged);
    EXPECT_EQ(conversation->stats().documents_direct, 4);
    EXPECT_EQ(conversation->stats().documents_dram + conversation->stats().documents_segments, 4);
    EXPECT_EQ(engine->stats().pool.loads_direct, 4);
    EXPECT_EQ(engine->stats().encoded, 0);
    EXPECT_EQ(place_->remote()->Counters().device_pulls, pulls + 4);
    // What has its place in the budget needs no lease, though it is in use.
    AwaitUnused(*engine);
    const auto again = Start(*engine, Ask());
    EXPECT_EQ(LogitsOf(*again), staged);
    EXPECT_EQ(again->stats().documents_resident, 4);
    EXPECT_EQ(again->stats().documents_direct, 0);
  }
}

TEST_P(LandingTest, WhatTheWireDamagedIsEncodedHere) {
  int64_t payload = -1;  // the one to damage, counted from here on
  testing::RemotePlaceOptions options;
  options.faulty = true;
  options.faults.schedule = [&payload](bool is_payload, int64_t) -> absl::optional<Fault> {
    return is_payload && payload-- == 0 ? Fault::kCorrupt : Fault::kNone;
  };
  Place(options);
  Fill(exact());
  const std::vector<float> expected = Expected(Ask({2}));
  const auto layers = static_cast<int64_t>(loaded_.model->config().layers);
  for (int64_t layer = 0; layer < layers; ++layer) {
    SCOPED_TRACE(layer);
    const auto engine = NewEngine(Landing(exact()));
    payload = layer;
    place_->node_faults()->Enable(true);
    const auto conversation = Start(*engine, Ask({2}));
    place_->node_faults()->Enable(false);
    EXPECT_EQ(engine->stats().pool.loads_direct, 1);
    EXPECT_EQ(engine->stats().damaged, 1);
    EXPECT_EQ(engine->stats().encoded, 1);
    EXPECT_EQ(place_->remote()->Counters().corrupt_slabs, layer + 1);
    EXPECT_LE(LargestDifference(LogitsOf(*conversation), expected), tolerance());
    AwaitUnused(*engine);
  }
}

TEST_P(LandingTest, WhatFindsNoRoomThereComesByTheHost) {
  Place();
  Fill(exact());
  const std::vector<float> staged = Staged(exact());
  // Room for none, and for some.
  for (const int64_t bytes : {int64_t{4096}, BytesOf({0, 1}) + 4096}) {
    SCOPED_TRACE(bytes);
    const auto engine = NewEngine(Landing(exact(), bytes));
    const auto conversation = Start(*engine, Ask());
    EXPECT_EQ(LogitsOf(*conversation), staged);
    EXPECT_LT(conversation->stats().documents_direct, 4);
    EXPECT_EQ(conversation->stats().documents_direct > 0, bytes > 4096);
    EXPECT_EQ(engine->stats().encoded, 0);
    EXPECT_EQ(engine->stats().pool.store_errors, 0);
  }
  EXPECT_GT(place_->remote()->Counters().device_fallbacks, 0);
}

TEST_P(LandingTest, WhereTheNetworkDoesNotReachTheDevice) {
  Place({}, /*reaches=*/false);
  Fill(exact());
  const std::vector<float> staged = Staged(exact());
  const int64_t used = testing::EmulatedDeviceBytes();
  {
    const auto engine = NewEngine(Landing(exact()));
    if (engine->landing().ok()) GTEST_SKIP() << "this machine's UCX reaches CUDA memory";
    EXPECT_EQ(engine->landing().code(), absl::StatusCode::kUnimplemented);
    const auto conversation = Start(*engine, Ask());
    EXPECT_EQ(LogitsOf(*conversation), staged);
    EXPECT_EQ(conversation->stats().documents_direct, 0);
    EXPECT_EQ(engine->stats().encoded, 0);
  }
  EXPECT_EQ(testing::EmulatedDeviceBytes(), used) << "what nobody lands in is given back";
  // Nor is it an error where the device has no room for a region.
  const auto engine = NewEngine(Landing(exact(), int64_t{1} << 50));
  EXPECT_EQ(engine->landing().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(LogitsOf(*Start(*engine, Ask())), staged);
  // Nor any other store.
  EXPECT_EQ(MakeEngine(store_.get(), Landing(exact()))->landing().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(MakeEngine(nullptr, Landing(exact()))->landing().code(), absl::StatusCode::kUnimplemented);
}

TEST_P(LandingTest, ARequestThatIsCancelledGivesItsRoomBack) {
  Place();
  Fill(exact());
  const auto engine = NewEngine(Landing(exact()));
  for (int allowed = 0;; ++allowed) {
    ASSERT_LT(allowed, 100);
    Request request = Ask();
    int asked = 0;
    request.limits.cancelled = [&] { return asked++ >= allowed; };
    const auto conversation = engine->Start(request);
    if (conversation.ok()) break;
    EXPECT_EQ(conversation.status().code(), absl::StatusCode::kCancelled);
    AwaitUnused(*engine);
    engine->pool().Clear();
  }
  EXPECT_GT(engine->stats().pool.loads_direct, 4);
  EXPECT_EQ(engine->stats().encoded, 0);
}

// Copies in host memory are made from the device's.
TEST_P(LandingTest, HostMemoryKeepsThemAsWell) {
  for (const Codec codec : {Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    SCOPED_TRACE(std::string(CodecName(codec)));
    Place();
    Fill(codec);
    EngineOptions options = Landing(codec);
    options.host_bytes = 4 * HostTier::kPieceBytes;
    const auto engine = NewEngine(options);
    const std::vector<float> first = LogitsOf(*Start(*engine, Ask()));
    EXPECT_EQ(engine->stats().pool.loads_direct, 4);
    EXPECT_EQ(engine->stats().pool.host.copies, 4);
    engine->pool().Clear();
    place_->StopNode();
    const auto again = Start(*engine, Ask());
    EXPECT_EQ(again->stats().documents_host, 4);
    EXPECT_EQ(LogitsOf(*again), first);
    EXPECT_EQ(engine->stats().encoded, 0);
  }
}

std::vector<testing::BackendFactory> EmulatedDevices() {
  std::vector<testing::BackendFactory> backends = EngineBackends();
  std::erase_if(backends, [](const auto& backend) { return backend.name != "cuda_emulated"; });
  return backends;
}
INSTANTIATE_TEST_SUITE_P(Backends, LandingTest, ::testing::ValuesIn(EmulatedDevices()),
                         [](const auto& info) { return info.param.name; });

class LandingOfHostTest : public EngineTest {};
TEST_P(LandingOfHostTest, OnlyADeviceHasARegion) {
  EngineOptions options = Options();
  options.landing_bytes = 4096;
  const auto engine = Engine::Create(loaded_.model.get(), loaded_.fingerprint, nullptr, options);
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(engine.status().message(), ::testing::HasSubstr("only a device"));
}
INSTANTIATE_TEST_SUITE_P(Host, LandingOfHostTest, ::testing::Values(EngineBackends().front()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
