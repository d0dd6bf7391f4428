// Slabs received in a device's memory: verified and decoded there.
#define XXH_INLINE_ALL
#include "kernels/device/slab_decoder.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "kernels/device/device_checksums.h"
#include "tests/support/backends.h"

namespace kvlink::kernels {
namespace {

class SlabDecoderTest : public ::testing::TestWithParam<testing::BackendFactory> {
 protected:
  // Memory for the network, with these bytes in it.
  Buffer OnDevice(const std::vector<std::byte>& bytes) {
    auto memory = backend_->AllocateForNetwork(static_cast<int64_t>(bytes.size()));
    EXPECT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 4096, 0u);
    const auto stream = backend_->NewStream();
    EXPECT_TRUE(backend_->CopyIn(*stream, bytes.data(), memory->data(), memory->bytes()).ok());
    EXPECT_TRUE(stream->Synchronize().ok());
    return *std::move(memory);
  }
  std::vector<std::byte> BytesOf(const void* memory, int64_t count) {
    std::vector<std::byte> bytes(static_cast<size_t>(count));
    const auto stream = backend_->NewStream();
    EXPECT_TRUE(backend_->CopyOut(*stream, memory, bytes.data(), count).ok());
    EXPECT_TRUE(stream->Synchronize().ok());
    return bytes;
  }
  std::vector<std::byte> Random(int64_t count) {
    std::vector<std::byte> bytes(static_cast<size_t>(count));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_());
    return bytes;
  }

  std::mt19937_64 random_{7};
  const std::unique_ptr<Backend> backend_ = GetParam().make();
};
INSTANTIATE_TEST_SUITE_P(Backends, SlabDecoderTest, ::testing::ValuesIn(testing::AllBackends()),
                         [](const auto& info) { return info.param.name; });

TEST_P(SlabDecoderTest, ChecksumsAreThoseOfTheBytes) {
  const std::vector<std::byte> bytes = Random(300000);
  const Buffer memory = OnDevice(bytes);
  const auto* const data = static_cast<const std::byte*>(memory.data());
  DeviceChecksums checksums(backend_.get());
  const auto check = [&](size_t ranges, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<int64_t> offsets, lengths;
    for (size_t i = 0; i < ranges; ++i) {
      offsets.push_back(static_cast<int64_t>(random() % bytes.size()));
      lengths.push_back(static_cast<int64_t>(random() % (bytes.size() - offsets.back()) >> random() % 12));
    }
    std::vector<uint64_t> out(ranges);
    const absl::Status status = checksums.Compute(data, memory.bytes(), offsets, lengths, absl::MakeSpan(out));
    EXPECT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < ranges; ++i) {
      EXPECT_EQ(out[i], XXH3_64bits(bytes.data() + offsets[i], lengths[i])) << offsets[i] << " + " << lengths[i];
    }
  };
  for (const size_t ranges : {0, 1, 2, 33, 7}) check(ranges, ranges);
  std::vector<std::thread> threads;
  for (uint64_t seed = 0; seed < 3; ++seed) threads.emplace_back([&check, seed] { check(5 + seed, seed); });
  for (std::thread& thread : threads) thread.join();
}

TEST_P(SlabDecoderTest, ChecksumsOfWhatIsNotThereAreRefused) {
  const Buffer memory = OnDevice(Random(100));
  const auto* const data = static_cast<const std::byte*>(memory.data());
  DeviceChecksums checksums(backend_.get());
  std::vector<uint64_t> out(1);
  const auto code = [&](std::vector<int64_t> offsets, std::vector<int64_t> lengths) {
    return checksums.Compute(data, 100, offsets, lengths, absl::MakeSpan(out)).code();
  };
  EXPECT_EQ(code({1}, {100}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({-1}, {10}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2}, {10}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1}, {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1}, {99}), absl::StatusCode::kOk);
}

// The same as from the host; and what is kept beside it is what decoded.
TEST_P(SlabDecoderTest, SlabsLandFromWhereTheyAre) {
  if (!GetParam().on_device) GTEST_SKIP() << "the host reads slabs where they are";
  auto rope = MakeRope({.rotary_dim = 64});
  ASSERT_TRUE(rope.ok()) << rope.status();
  SlabDecoder decoder(backend_.get(), &*rope);
  for (const Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    for (const bool keep : {false, true}) {
      SCOPED_TRACE(std::string(CodecName(codec)) + (keep ? ", kept" : ""));
      const SlabShape stored{.codec = codec, .kv_heads = 3, .head_dim = 64, .tokens = 75};
      const SlabShape decoded = SlabDecoder::DecodedShape(stored);
      ASSERT_LT(stored.used_bytes(), stored.slab_bytes());
      const std::vector<std::byte> slab = Random(stored.slab_bytes());
      const Buffer there = OnDevice(slab);
      Buffer wanted = *backend_->Allocate(decoded.slab_bytes()), out = *backend_->Allocate(decoded.slab_bytes());
      ASSERT_TRUE(decoder.Decode(stored, slab, static_cast<std::byte*>(wanted.data())).ok());
      const Buffer pinned = *backend_->AllocatePinned(stored.slab_bytes());
      auto* const copy = static_cast<std::byte*>(pinned.data());
      const size_t all = static_cast<size_t>(stored.slab_bytes()), first = 5000;
      std::fill(copy, copy + all, std::byte{0x11});
      std::vector<absl::Span<std::byte>> parts;
      if (keep) parts = {{copy, first}, {copy + first, all - first}};
      const absl::Status status = decoder.DecodeOnDevice(stored, static_cast<const std::byte*>(there.data()), parts,
                                                         static_cast<std::byte*>(out.data()));
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(BytesOf(out.data(), decoded.used_bytes()), BytesOf(wanted.data(), decoded.used_bytes()));
      EXPECT_EQ(std::equal(copy, copy + stored.used_bytes(), slab.begin()), keep);
      EXPECT_EQ(copy[all - 1], std::byte{0x11}) << "padding goes nowhere";
    }
  }
}

}  // namespace
}  // namespace kvlink::kernels
