// Residents in device memory: one copy for all, a hard budget, a device without memory; and the same answers as the
// host gives from the same store. What holds on every backend is in the other tests of this folder.
#include <atomic>
#include <thread>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "tests/support/cuda_emulation/backend.h"
#include "tests/worker/infer/fixture.h"

namespace kvlink::infer {
namespace {

using ::testing::HasSubstr;

class DeviceTest : public GeneratorTest {
 protected:
  ~DeviceTest() override { testing::SetEmulatedDeviceExhausted(false); }
  bool emulated() const { return GetParam().name == "cuda_emulated"; }
  GeneratorOptions WithRoomFor(const std::vector<int>& documents) const {
    GeneratorOptions options = Options();
    options.resident_budget_bytes = BytesOf(documents);
    return options;
  }
  // An answer that is asked for in the background.
  struct Asked {
    std::unique_ptr<Conversation> conversation;
    absl::Status status;
    std::thread thread;
    void Wait() { thread.join(); }
  };
  static void AskBehind(Generator& generator, const Request& request, Asked* asked) {
    asked->thread = std::thread([&generator, request, asked] {
      auto conversation = generator.Start(request);
      asked->status = conversation.status();
      if (conversation.ok()) asked->conversation = *std::move(conversation);
    });
  }
  static void AwaitWaits(Generator& generator, int64_t waits) {
    const absl::Time deadline = SteadyNow() + absl::Seconds(60);
    while (generator.stats().pool.waits < waits && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_EQ(generator.stats().pool.waits, waits);
  }
};

// The encodings of one backend are read by the other. bf16 keeps 8 bits: it is compared by divergence, as everywhere.
TEST_P(DeviceTest, AnswersAsTheHostDoesFromTheSameStore) {
  const Loaded host = LoadModel(directory_.path() + "/model", FastF32());
  for (const Codec codec : {Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    for (const bool encoded_here : {true, false}) {
      SCOPED_TRACE(absl::StrCat(std::string(CodecName(codec)), encoded_here ? " of the device" : " of the host"));
      const auto store = OpenStore(absl::StrCat(directory_.path(), "/", static_cast<int>(codec), encoded_here));
      const auto make = [&](const Loaded& loaded) {
        return std::move(Generator::Create(loaded.model.get(), loaded.fingerprint, store.get(), Options(codec)))
            .value();
      };
      const auto device = make(loaded_), cpu = make(host);
      Generator& first = encoded_here ? *device : *cpu;
      Start(first, Ask());
      ASSERT_TRUE(first.DrainWriteBack(SteadyNow() + absl::Seconds(60)));
      const auto here = Start(*device, Ask()), there = Start(*cpu, Ask());
      EXPECT_EQ(device->stats().encoded + cpu->stats().encoded, 4);
      EXPECT_LE(Divergence(LogitsOf(*there), LogitsOf(*here)), 0.001);
      const std::vector<int32_t> turn = {7, 8, 9, 10};
      const auto scores = device->Score(*here, turn, {}), expected = cpu->Score(*there, turn, {});
      ASSERT_TRUE(scores.ok() && expected.ok());
      const int64_t vocab = host.model->config().vocab;
      for (size_t i = 0; i < expected->size(); i += vocab) {
        EXPECT_LE(Divergence(absl::MakeConstSpan(*expected).subspan(i, vocab),
                             absl::MakeConstSpan(*scores).subspan(i, vocab)),
                  0.001);
      }
    }
  }
}

TEST_P(DeviceTest, MemoryDoesNotGrowWithTheConversations) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  Start(*generator, Ask({2, 3, 0, 2}));  // scratch memory
  generator->pool().Clear();
  const auto first = Start(*generator, Ask({0, 2}));
  EXPECT_EQ(generator->stats().pool.bytes, BytesOf({0, 2}));
  EXPECT_EQ(store_->Stats()->leases, 0) << "a copy that is whole needs no lease";
  const int64_t used = testing::EmulatedDeviceBytes();
  std::vector<std::unique_ptr<Conversation>> others;
  for (const std::vector<int>& documents : {std::vector<int>{2, 0}, {0}, {2}, {2, 2, 0}, {0, 2}}) {
    others.push_back(Start(*generator, Ask(documents)));
    Decode(*generator, *others.back(), 3);
  }
  EXPECT_EQ(generator->stats().pool.bytes, BytesOf({0, 2}));
  EXPECT_EQ(generator->stats().pool.residents, 2);
  if (emulated()) {
    EXPECT_EQ(testing::EmulatedDeviceBytes(), used);
  }
  EXPECT_EQ(LogitsOf(*Start(*generator, Ask({0, 2}))), LogitsOf(*first));
}

TEST_P(DeviceTest, WhatLacksRoomWaitsForOthersToLetGo) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), WithRoomFor({0, 2}));
  auto holder = Start(*generator, Ask({0, 2}));
  Asked asked;
  AskBehind(*generator, Ask({3}), &asked);
  AwaitWaits(*generator, 1);
  // It holds nothing meanwhile, and nobody else is disturbed.
  EXPECT_EQ(generator->stats().pool.bytes, BytesOf({0, 2}));
  EXPECT_EQ(Start(*generator, Ask({2}))->stats().documents_resident, 1);
  EXPECT_TRUE(generator->Step(*holder, {}).ok());
  EXPECT_EQ(generator->stats().pool.evictions, 0);
  holder.reset();
  asked.Wait();
  ASSERT_TRUE(asked.status.ok()) << asked.status;
  EXPECT_LE(LargestDifference(LogitsOf(*asked.conversation), Expected(Ask({3}))), tolerance());
  // The one used last is still there.
  EXPECT_EQ(generator->stats().pool.evictions, 1);
  EXPECT_EQ(Start(*generator, Ask({2}))->stats().documents_resident, 1);
}

// The small request would fit at once; but then one after another would slip by.
TEST_P(DeviceTest, ThoseThatWaitAreServedInOrder) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), WithRoomFor({0, 2}));
  auto holder = Start(*generator, Ask({3}));
  Asked large, small;
  AskBehind(*generator, Ask({0, 2}), &large);
  AwaitWaits(*generator, 1);
  AskBehind(*generator, Ask({1}), &small);
  AwaitWaits(*generator, 2);
  // A request that needs no room waits for nobody.
  EXPECT_EQ(Start(*generator, Ask({3}))->stats().documents_resident, 1);
  holder.reset();
  large.Wait();
  ASSERT_TRUE(large.status.ok()) << large.status;
  EXPECT_EQ(generator->stats().pool.bytes, BytesOf({0, 2}));  // all there is
  large.conversation.reset();
  small.Wait();
  ASSERT_TRUE(small.status.ok()) << small.status;
}

// One that gives up lets the next one pass.
TEST_P(DeviceTest, ATurnEndsWithItsRequest) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), WithRoomFor({0, 2}));
  const auto holder = Start(*generator, Ask({3}));
  std::atomic<bool> cancelled = false;
  Request request = Ask({0, 2});
  request.limits.cancelled = [&] { return cancelled.load(); };
  Asked large, small;
  AskBehind(*generator, request, &large);
  AwaitWaits(*generator, 1);
  AskBehind(*generator, Ask({1}), &small);
  AwaitWaits(*generator, 2);
  cancelled = true;
  large.Wait();
  EXPECT_EQ(large.status.code(), absl::StatusCode::kCancelled);
  small.Wait();
  ASSERT_TRUE(small.status.ok()) << small.status;
}

// Each wants some of what the others have, and something else beside it.
TEST_P(DeviceTest, ThoseThatDoNotFitTogetherTakeTurns) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), WithRoomFor({0, 2, 3}));
  const std::vector<std::vector<int>> wanted = {{0, 2, 3}, {2, 0, 1}, {3, 2}, {1, 3, 0}};
  std::vector<std::vector<float>> logits(2 * wanted.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < logits.size(); ++i) {
    threads.emplace_back([&, i] {
      const auto conversation = Start(*generator, Ask(wanted[i % wanted.size()]));
      if (conversation != nullptr) logits[i] = LogitsOf(*conversation);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < logits.size(); ++i) {
    EXPECT_LE(LargestDifference(logits[i], Expected(Ask(wanted[i % wanted.size()]))), tolerance()) << i;
  }
  EXPECT_LE(generator->stats().pool.bytes, BytesOf({0, 2, 3}));
}

TEST_P(DeviceTest, WhatDoesNotFitFailsAlone) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), WithRoomFor({0, 2}));
  const auto never = generator->Start(Ask({0, 1, 2}));
  EXPECT_EQ(never.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(never.status().message(), HasSubstr(absl::StrCat(BytesOf({0, 1, 2}), " bytes of encodings")));
  const auto holder = Start(*generator, Ask({0, 2}));
  const auto undisturbed = Start(*generator, Ask({0, 2}));
  Request late = Ask({3, 0});
  late.limits.timeout = absl::Milliseconds(100);
  const auto timed_out = generator->Start(late);
  EXPECT_EQ(timed_out.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(timed_out.status().message(), HasSubstr("until this one timed out"));
  Request cancelled = Ask({3});
  cancelled.limits.cancelled = [] { return true; };
  EXPECT_EQ(generator->Start(cancelled).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Decode(*generator, *holder, 4), Decode(*generator, *undisturbed, 4));
  EXPECT_EQ(generator->stats().pool.bytes, BytesOf({0, 2}));
  EXPECT_EQ(generator->stats().encoded, 0);
}

// A miss has its room before it is encoded.
TEST_P(DeviceTest, MissesWaitForRoomToo) {
  const auto generator = MakeGenerator(nullptr, WithRoomFor({0, 2}));
  auto holder = Start(*generator, Ask({0, 2}));
  Asked asked;
  AskBehind(*generator, Ask({2, 3}), &asked);
  AwaitWaits(*generator, 1);
  EXPECT_EQ(generator->stats().encoded, 2);
  holder.reset();
  asked.Wait();
  ASSERT_TRUE(asked.status.ok()) << asked.status;
  EXPECT_EQ(asked.conversation->stats().documents_resident, 1);
  EXPECT_EQ(asked.conversation->stats().documents_encoded, 1);
}

TEST_P(DeviceTest, WithoutMemoryForAPassTheNextOneStartsAnew) {
  if (!emulated()) GTEST_SKIP() << "a real one is not to be filled";
  const auto generator = MakeGenerator(nullptr, Options());
  testing::SetEmulatedDeviceExhausted(true);
  EXPECT_EQ(generator->Start(Ask({})).status().code(), absl::StatusCode::kResourceExhausted);
  testing::SetEmulatedDeviceExhausted(false);
  EXPECT_LE(LargestDifference(LogitsOf(*Start(*generator, Ask({}))), Expected(Ask({}))), tolerance());
}

TEST_P(DeviceTest, ADeviceWithoutMemoryFailsTheRequestThatNeedsSome) {
  if (!emulated()) GTEST_SKIP() << "a real one is not to be filled";
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  const auto holder = Start(*generator, Ask({0, 2}));
  const auto undisturbed = Start(*generator, Ask({0, 2}));
  std::vector<int32_t> decoded = Decode(*generator, *holder, 3);
  testing::SetEmulatedDeviceExhausted(true);
  EXPECT_EQ(generator->Start(Ask({3})).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(generator->stats().pool.bytes, BytesOf({0, 2}));
  decoded.pop_back();
  for (const int32_t token : Decode(*generator, *holder, 3)) decoded.push_back(token);
  testing::SetEmulatedDeviceExhausted(false);
  EXPECT_EQ(decoded, Decode(*generator, *undisturbed, 5));
  EXPECT_LE(LargestDifference(LogitsOf(*Start(*generator, Ask({3}))), Expected(Ask({3}))), tolerance());
}

INSTANTIATE_TEST_SUITE_P(Backends, DeviceTest, ::testing::ValuesIn(GeneratorDevices()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
