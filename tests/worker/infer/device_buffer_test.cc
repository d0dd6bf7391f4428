// Documents that arrive in the device's memory straight from the network: the same answers, to the bit, as by way of
// the host; and by way of the host wherever the device cannot be reached. Over UCX's tcp, and an emulated device, whose
// memory UCX takes for the host's.
#include <atomic>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "tests/store/client/device_region.h"
#include "tests/store/client/remote_place.h"
#include "tests/support/cuda_emulation/backend.h"
#include "tests/worker/infer/fixture.h"

namespace kvlink::infer {
namespace {

using transport::Fault;

class DeviceBufferTest : public GeneratorTest {
 protected:
  ~DeviceBufferTest() override { testing::SetEmulatedDeviceExhausted(false); }
  testing::RemotePlace& Place(testing::RemotePlaceOptions options = {}, bool reaches = true) {
    options.way = "ucx";
    if (reaches) options.client = testing::ReachDevices;
    place_ = std::make_unique<testing::RemotePlace>(std::move(options));
    return *place_;
  }
  GeneratorOptions WithDeviceBuffer(Codec codec, int64_t bytes = int64_t{16} << 20) const {
    GeneratorOptions options = Options(codec);
    options.device_buffer_bytes = bytes;
    return options;
  }
  std::unique_ptr<Generator> NewGenerator(const GeneratorOptions& options) {
    return MakeGenerator(place_->store(), options);
  }
  void Fill(Codec codec) {
    const auto generator = NewGenerator(Options(codec));
    Start(*generator, Ask());
    ASSERT_TRUE(generator->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
    ASSERT_EQ(generator->stats().write_back.written, 4) << generator->stats().write_back.last_error;
  }
  // By way of the host.
  std::vector<float> Staged(Codec codec) {
    const auto generator = NewGenerator(Options(codec));
    const auto conversation = Start(*generator, Ask());
    EXPECT_EQ(conversation->stats().documents_direct, 0);
    EXPECT_EQ(generator->stats().encoded, 0);
    return LogitsOf(*conversation);
  }
  static void AwaitUnused(const Generator& generator) {
    const absl::Time limit = SteadyNow() + absl::Seconds(60);
    while (generator.stats().pool.device_buffer_bytes > 0 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(generator.stats().pool.device_buffer_bytes, 0);
  }

  std::unique_ptr<testing::RemotePlace> place_;
};

TEST_P(DeviceBufferTest, AnswersAreThoseOfTheWayByTheHost) {
  Place();
  for (const Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    SCOPED_TRACE(std::string(CodecName(codec)));
    Fill(codec);
    const std::vector<float> staged = Staged(codec);
    const auto generator = NewGenerator(WithDeviceBuffer(codec));
    EXPECT_TRUE(generator->device_buffer().ok()) << generator->device_buffer();
    const int64_t pulls = place_->remote()->Counters().device_pulls;
    const auto conversation = Start(*generator, Ask());
    EXPECT_EQ(LogitsOf(*conversation), staged);
    EXPECT_EQ(conversation->stats().documents_direct, 4);
    EXPECT_EQ(conversation->stats().documents_dram + conversation->stats().documents_disk, 4);
    EXPECT_EQ(generator->stats().pool.loads_direct, 4);
    EXPECT_EQ(generator->stats().encoded, 0);
    EXPECT_EQ(place_->remote()->Counters().device_pulls, pulls + 4);
    // Residents with a place in the budget need no lease, though they are in use.
    AwaitUnused(*generator);
    const auto again = Start(*generator, Ask());
    EXPECT_EQ(LogitsOf(*again), staged);
    EXPECT_EQ(again->stats().documents_resident, 4);
    EXPECT_EQ(again->stats().documents_direct, 0);
  }
}

TEST_P(DeviceBufferTest, WhatTheWireDamagedIsEncodedHere) {
  std::atomic<int64_t> payload{-1};  // the one to damage, counted from here on, by several threads
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
    const auto generator = NewGenerator(WithDeviceBuffer(exact()));
    payload = layer;
    place_->node_faults()->Enable(true);
    const auto conversation = Start(*generator, Ask({2}));
    place_->node_faults()->Enable(false);
    EXPECT_EQ(generator->stats().pool.loads_direct, 1);
    EXPECT_EQ(generator->stats().damaged, 1);
    EXPECT_EQ(generator->stats().encoded, 1);
    EXPECT_EQ(place_->remote()->Counters().corrupt_slabs, layer + 1);
    EXPECT_LE(LargestDifference(LogitsOf(*conversation), expected), tolerance());
    AwaitUnused(*generator);
  }
}

TEST_P(DeviceBufferTest, WhatFindsNoRoomThereComesByTheHost) {
  Place();
  Fill(exact());
  const std::vector<float> staged = Staged(exact());
  // Room for none, and for some.
  for (const int64_t bytes : {int64_t{4096}, BytesOf({0, 1}) + 4096}) {
    SCOPED_TRACE(bytes);
    const auto generator = NewGenerator(WithDeviceBuffer(exact(), bytes));
    const auto conversation = Start(*generator, Ask());
    EXPECT_EQ(LogitsOf(*conversation), staged);
    EXPECT_LT(conversation->stats().documents_direct, 4);
    EXPECT_EQ(conversation->stats().documents_direct > 0, bytes > 4096);
    EXPECT_EQ(generator->stats().encoded, 0);
    EXPECT_EQ(generator->stats().pool.store_errors, 0);
  }
  EXPECT_GT(place_->remote()->Counters().device_fallbacks, 0);
}

TEST_P(DeviceBufferTest, WhereTheNetworkDoesNotReachTheDevice) {
  Place({}, /*reaches=*/false);
  Fill(exact());
  const std::vector<float> staged = Staged(exact());
  const int64_t used = testing::EmulatedDeviceBytes();
  {
    const auto generator = NewGenerator(WithDeviceBuffer(exact()));
    if (generator->device_buffer().ok()) GTEST_SKIP() << "this machine's UCX reaches CUDA memory";
    EXPECT_EQ(generator->device_buffer().code(), absl::StatusCode::kUnimplemented);
    const auto conversation = Start(*generator, Ask());
    EXPECT_EQ(LogitsOf(*conversation), staged);
    EXPECT_EQ(conversation->stats().documents_direct, 0);
    EXPECT_EQ(generator->stats().encoded, 0);
  }
  EXPECT_EQ(testing::EmulatedDeviceBytes(), used) << "what nobody arrives in is given back";
  // Nor is it an error where the device has no room for a region.
  const auto generator = NewGenerator(WithDeviceBuffer(exact(), int64_t{1} << 50));
  EXPECT_EQ(generator->device_buffer().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(LogitsOf(*Start(*generator, Ask())), staged);
  // Nor any other store.
  EXPECT_EQ(MakeGenerator(store_.get(), WithDeviceBuffer(exact()))->device_buffer().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(MakeGenerator(nullptr, WithDeviceBuffer(exact()))->device_buffer().code(),
            absl::StatusCode::kUnimplemented);
}

TEST_P(DeviceBufferTest, ARequestThatIsCancelledGivesItsRoomBack) {
  Place();
  Fill(exact());
  const auto generator = NewGenerator(WithDeviceBuffer(exact()));
  for (int allowed = 0;; ++allowed) {
    ASSERT_LT(allowed, 100);
    Request request = Ask();
    int asked = 0;
    request.limits.cancelled = [&] { return asked++ >= allowed; };
    const auto conversation = generator->Start(request);
    if (conversation.ok()) break;
    EXPECT_EQ(conversation.status().code(), absl::StatusCode::kCancelled);
    AwaitUnused(*generator);
    generator->pool().Clear();
  }
  EXPECT_GT(generator->stats().pool.loads_direct, 4);
  EXPECT_EQ(generator->stats().encoded, 0);
}

// Copies in host memory are made from the device's.
TEST_P(DeviceBufferTest, HostMemoryKeepsThemAsWell) {
  for (const Codec codec : {Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    SCOPED_TRACE(std::string(CodecName(codec)));
    Place();
    Fill(codec);
    GeneratorOptions options = WithDeviceBuffer(codec);
    options.host_bytes = 4 * HostTier::kPieceBytes;
    const auto generator = NewGenerator(options);
    const std::vector<float> first = LogitsOf(*Start(*generator, Ask()));
    EXPECT_EQ(generator->stats().pool.loads_direct, 4);
    EXPECT_EQ(generator->stats().pool.host.copies, 4);
    generator->pool().Clear();
    place_->StopNode();
    const auto again = Start(*generator, Ask());
    EXPECT_EQ(again->stats().documents_host, 4);
    EXPECT_EQ(LogitsOf(*again), first);
    EXPECT_EQ(generator->stats().encoded, 0);
  }
}

std::vector<testing::BackendFactory> EmulatedDevices() {
  std::vector<testing::BackendFactory> backends = GeneratorBackends();
  std::erase_if(backends, [](const auto& backend) { return backend.name != "cuda_emulated"; });
  return backends;
}
INSTANTIATE_TEST_SUITE_P(Backends, DeviceBufferTest, ::testing::ValuesIn(EmulatedDevices()),
                         [](const auto& info) { return info.param.name; });

class HostBufferTest : public GeneratorTest {};
TEST_P(HostBufferTest, OnlyADeviceHasARegion) {
  GeneratorOptions options = Options();
  options.device_buffer_bytes = 4096;
  const auto generator = Generator::Create(loaded_.model.get(), loaded_.fingerprint, nullptr, options);
  EXPECT_EQ(generator.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(generator.status().message(), ::testing::HasSubstr("for devices only"));
}
INSTANTIATE_TEST_SUITE_P(Host, HostBufferTest, ::testing::Values(GeneratorBackends().front()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
