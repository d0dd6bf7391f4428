// The second tier of a device's residents, in host memory: arrives again without the store, keeps its budget, and holds
// nothing but what was verified.
#include "worker/infer/host_tier.h"

#include <thread>

#include "gmock/gmock.h"
#include "tests/worker/infer/faulty_store.h"
#include "tests/worker/infer/fixture.h"

namespace kvlink::infer {
namespace {

constexpr int64_t kPiece = HostTier::kPieceBytes;  // what each document of the fixture takes

class HostTierTest : public GeneratorTest {
 protected:
  GeneratorOptions WithHost(int64_t pieces, Codec codec) const {
    GeneratorOptions options = Options(codec);
    options.host_bytes = pieces * kPiece;
    return options;
  }
  GeneratorOptions WithHost(int64_t pieces) const { return WithHost(pieces, exact()); }
  Identity IdentityOf(int document) const {
    return ComputeIdentity({loaded_.fingerprint, "", documents_[document].tokens}, "");
  }
};

TEST_P(HostTierTest, LandsAgainWithTheStoreGone) {
  for (const Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    SCOPED_TRACE(std::string(CodecName(codec)));
    FillStore(codec);
    testing::FaultyStore store(store_.get());
    const auto generator = MakeGenerator(&store, WithHost(4, codec));
    auto first = Start(*generator, Ask());
    EXPECT_EQ(first->stats().documents_dram + first->stats().documents_disk, 4);
    const int64_t first_bytes = first->stats().bytes_dram + first->stats().bytes_segments;
    const std::vector<float> logits = LogitsOf(*first);
    first.reset();
    EXPECT_EQ(generator->stats().pool.host.copies, 4);
    EXPECT_EQ(generator->stats().pool.host.bytes, 4 * kPiece);
    generator->pool().Clear();
    EXPECT_EQ(generator->stats().pool.residents, 0);
    store.FailLookups(absl::UnavailableError("gone"));
    store.FailReads(absl::UnavailableError("gone"));
    const auto again = Start(*generator, Ask());
    EXPECT_EQ(again->stats().documents_host, 4);
    EXPECT_EQ(again->stats().bytes_host, first_bytes);
    EXPECT_EQ(generator->stats().pool.loads_host, 4);
    EXPECT_EQ(generator->stats().pool.store_errors, 0);
    EXPECT_EQ(generator->stats().encoded, 0);
    EXPECT_EQ(LogitsOf(*again), logits);
  }
}

// Encodings computed here are kept as well, and outlive their eviction.
TEST_P(HostTierTest, WhatWasEncodedHereNeedsNoStoreEither) {
  const auto generator = MakeGenerator(nullptr, WithHost(4));
  const std::vector<float> first = LogitsOf(*Start(*generator, Ask()));
  generator->pool().Clear();
  EXPECT_EQ(generator->stats().pool.residents, 0);
  const auto again = Start(*generator, Ask());
  EXPECT_EQ(again->stats().documents_host, 4);
  EXPECT_EQ(generator->stats().encoded, 4);
  EXPECT_EQ(LogitsOf(*again), first);
}

TEST_P(HostTierTest, TheLeastRecentlyUsedMakesRoom) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), WithHost(2));
  for (const int document : {0, 1, 0, 2}) Start(*generator, Ask({document}));
  EXPECT_EQ(generator->stats().pool.host.copies, 2);
  EXPECT_EQ(generator->stats().pool.host.evictions, 1);
  generator->pool().Clear();
  EXPECT_EQ(Start(*generator, Ask({0}))->stats().documents_host, 1);
  EXPECT_EQ(Start(*generator, Ask({2}))->stats().documents_host, 1);
  EXPECT_EQ(Start(*generator, Ask({1}))->stats().documents_host, 0);
  // Those of one pass are all in use: the third finds no room.
  generator->pool().Clear();
  Start(*generator, Ask({0, 1, 3}));
  EXPECT_LE(generator->stats().pool.host.bytes, 2 * kPiece);
  const auto small = MakeGenerator(store_.get(), [&] {
    GeneratorOptions options = Options();
    options.host_bytes = kPiece - 1;
    return options;
  }());
  Start(*small, Ask({0}));
  EXPECT_EQ(small->stats().pool.host.copies, 0);
  EXPECT_EQ(small->stats().pool.host.bytes, 0);
}

// With room for all of them in host memory, and with less than two requests need.
TEST_P(HostTierTest, ConcurrentRequestsShareIt) {
  FillStore();
  const std::vector<std::vector<int>> wanted = {{0, 2}, {3, 1}, {2, 3}, {1, 0}};
  for (const int64_t pieces : {4, 2}) {
    GeneratorOptions options = WithHost(pieces);
    options.resident_budget_bytes = BytesOf({0, 2});
    const auto generator = MakeGenerator(store_.get(), options);
    std::vector<std::vector<float>> logits(2 * wanted.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < logits.size(); ++i) {
      threads.emplace_back([&, i] {
        for (size_t round = 0; round < 3; ++round) {
          logits[i] = LogitsOf(*Start(*generator, Ask(wanted[(i + round) % wanted.size()])));
          EXPECT_LE(generator->stats().pool.host.bytes, pieces * kPiece);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < logits.size(); ++i) {
      EXPECT_LE(LargestDifference(logits[i], Expected(Ask(wanted[(i + 2) % wanted.size()]))), tolerance()) << i;
    }
    EXPECT_EQ(generator->stats().encoded, 0);
    if (pieces == 4) {
      EXPECT_GT(generator->stats().pool.loads_host, 0);
    }
  }
}

// Whatever happens to the bytes while they arrive: what arrives from host memory later is what was stored.
TEST_P(HostTierTest, KeepsNothingThatWasDamagedOrTakenBack) {
  FillStore();
  const std::vector<float> expected = Expected(Ask({2}));
  const auto layers = static_cast<int>(loaded_.model->config().layers);
  for (int fault = -1; fault <= 2 * layers; ++fault) {
    SCOPED_TRACE(fault);
    testing::FaultyStore store(store_.get());
    if (fault < layers) {
      store.TakeBack(IdentityOf(2), fault, 1);
    } else if (fault < 2 * layers) {
      store.FailLayer(IdentityOf(2), fault - layers, absl::DataLossError("as told"));
    }
    const auto generator = MakeGenerator(&store, WithHost(4));
    EXPECT_LE(LargestDifference(LogitsOf(*Start(*generator, Ask({2}))), expected), tolerance());
    EXPECT_EQ(generator->stats().pool.host.copies, 1);
    generator->pool().Clear();
    store.FailLookups(absl::UnavailableError("gone"));
    const auto again = Start(*generator, Ask({2}));
    EXPECT_EQ(again->stats().documents_host, 1);
    EXPECT_LE(LargestDifference(LogitsOf(*again), expected), tolerance());
  }
}

TEST_P(HostTierTest, KeepsNothingThatDidNotLandToItsEnd) {
  FillStore();
  for (int allowed = 0;; ++allowed) {
    ASSERT_LT(allowed, 100);
    const auto generator = MakeGenerator(store_.get(), WithHost(4));
    Request request = Ask({2});
    int asked = 0;
    request.limits.cancelled = [&] { return asked++ >= allowed; };
    const auto conversation = generator->Start(request);
    if (conversation.ok()) {
      EXPECT_EQ(generator->stats().pool.host.copies, 1);
      break;
    }
    EXPECT_EQ(conversation.status().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(generator->stats().pool.host.copies, 0);
    generator->pool().Clear();
    EXPECT_EQ(generator->stats().pool.host.bytes, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, HostTierTest, ::testing::ValuesIn(GeneratorDevices()),
                         [](const auto& info) { return info.param.name; });

class HostTierOfHostTest : public GeneratorTest {};
TEST_P(HostTierOfHostTest, OnlyADeviceHasOne) {
  GeneratorOptions options = Options();
  options.host_bytes = kPiece;
  const auto generator = Generator::Create(loaded_.model.get(), loaded_.fingerprint, nullptr, options);
  EXPECT_EQ(generator.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(generator.status().message(), ::testing::HasSubstr("for devices only"));
}
INSTANTIATE_TEST_SUITE_P(Host, HostTierOfHostTest, ::testing::Values(GeneratorBackends().front()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
