// The materialising shift and checksums on every backend.
#define XXH_INLINE_ALL
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cmath>
#include <random>

#include "tests/support/backends.h"
#include "tests/support/device_tensor.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

using kernels::Dtype;
using kernels::Rope;
using kernels::RopeConfig;

class ShiftTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override { backend_ = GetParam().make(); }
  std::unique_ptr<kernels::Backend> backend_;
};

std::vector<double> Rotated(const Rope& rope, int64_t position, const std::vector<float>& rows, int64_t row,
                            int64_t dim) {
  std::vector<double> out(rows.begin() + row * dim, rows.begin() + (row + 1) * dim);
  const int64_t half = rope.rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * rope.inv_freq[i], a = out[i], b = out[i + half];
    out[i] = a * std::cos(angle) - b * std::sin(angle);
    out[i + half] = a * std::sin(angle) + b * std::cos(angle);
  }
  return out;
}

std::vector<Rope> Ropes(int64_t dim) {
  std::vector<Rope> ropes;
  for (auto type :
       {RopeConfig::Type::kDefault, RopeConfig::Type::kLinear, RopeConfig::Type::kLlama3, RopeConfig::Type::kYarn}) {
    RopeConfig config{
        .type = type, .theta = 50000, .rotary_dim = dim, .factor = type == RopeConfig::Type::kDefault ? 1.0 : 8.0};
    config.original_context = 8192;
    ropes.push_back(kernels::MakeRope(config).value());
  }
  return ropes;
}

// Keys rotated at 0..n-1 and shifted by o are keys rotated at o..o+n-1; NHD and HND on both sides.
TEST_P(ShiftTest, ShiftingIsRotatingAgain) {
  std::mt19937_64 random(TestSeed());
  std::normal_distribution<float> normal;
  for (const auto& [dim, rotary_dim] : std::vector<std::pair<int64_t, int64_t>>{{64, 64}, {80, 32}, {128, 128}}) {
    for (const Rope& rope : Ropes(rotary_dim)) {
      for (Dtype dtype : {Dtype::kF32, Dtype::kBf16}) {
        for (int64_t delta : {int64_t{0}, int64_t{1}, int64_t{-17}, int64_t{4096}, int64_t{100000}}) {
          const bool hnd = random() % 2 == 0;
          constexpr int64_t kTokens = 13, kHeads = 3, kSlots = 20;
          std::vector<float> unrotated(kTokens * kHeads * dim);
          for (float& value : unrotated) value = normal(random);
          std::vector<float> local;
          for (int64_t row = 0; row < kTokens * kHeads; ++row) {
            for (double value : Rotated(rope, row / kHeads, unrotated, row, dim))
              local.push_back(static_cast<float>(value));
          }
          std::vector<int64_t> slots(kSlots);
          for (int64_t i = 0; i < kSlots; ++i) slots[i] = i;
          std::shuffle(slots.begin(), slots.end(), random);
          slots.resize(kTokens);
          const std::vector<int64_t> token_major = {kHeads * dim + 8, dim, 1};
          const auto in = DeviceTensor::Of(backend_.get(), dtype, {kTokens, kHeads, dim}, local,
                                           hnd ? token_major : std::vector<int64_t>{dim, kTokens * dim + 16, 1});
          const auto out = DeviceTensor::Poisoned(backend_.get(), dtype, {kSlots, kHeads, dim},
                                                  hnd ? std::vector<int64_t>{dim, kSlots * dim + 24, 1} : token_major);
          const auto slot_tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, slots);
          auto stream = backend_->NewStream();
          ASSERT_TRUE(backend_->ShiftKeys(*stream, {&rope, delta, in, slot_tensor, out}).ok());
          ASSERT_TRUE(stream->Synchronize().ok());

          const auto stored = Rounded(local, dtype), shifted = out.Floats();
          std::vector<float> actual;
          std::vector<double> expected;
          for (int64_t row = 0; row < kTokens * kHeads; ++row) {
            const int64_t to = slots[row / kHeads] * kHeads + row % kHeads;
            actual.insert(actual.end(), shifted.begin() + to * dim, shifted.begin() + (to + 1) * dim);
            const auto want = dtype == Dtype::kF32 ? Rotated(rope, row / kHeads + delta, unrotated, row, dim)
                                                   : Rotated(rope, delta, stored, row, dim);
            expected.insert(expected.end(), want.begin(), want.end());
          }
          ExpectClose(actual, expected, 2e-6, dtype == Dtype::kF32 ? 1e-6 : 1.0 / 128,
                      absl::StrCat("shift by ", delta));
          if (delta == 0) {
            EXPECT_EQ(actual, stored);
          }
          EXPECT_EQ(std::count_if(shifted.begin(), shifted.end(), [](float v) { return std::isnan(v); }),
                    (kSlots - kTokens) * kHeads * dim);
          EXPECT_TRUE(out.GapsIntact());
        }
      }
    }
  }
}

TEST_P(ShiftTest, SlotsOutOfRangeAreReported) {
  const Rope rope = Ropes(64)[0];
  const auto in = DeviceTensor::Of(backend_.get(), Dtype::kF32, {1, 1, 64}, std::vector<float>(64, 1.0f));
  for (int64_t slot : {int64_t{-1}, int64_t{4}, int64_t{1} << 61}) {
    const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {4, 1, 64});
    const auto slots = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{slot});
    auto stream = backend_->NewStream();
    ASSERT_TRUE(backend_->ShiftKeys(*stream, {&rope, 1, in, slots, out}).ok());
    EXPECT_EQ(stream->Synchronize().code(), absl::StatusCode::kInternal) << slot;
  }
}

TEST_P(ShiftTest, ChecksumsAreXxh3) {
  std::mt19937_64 random(TestSeed());
  std::vector<uint8_t> bytes(40000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  std::vector<int64_t> offsets = {0, 40000, 0, 17}, lengths = {0, 0, 40000, 1};
  for (int i = 0; i < 300; ++i) {
    offsets.push_back(static_cast<int64_t>(random() % 30000));
    lengths.push_back(static_cast<int64_t>(random() % (i < 200 ? 300 : 10000)));
  }
  const auto tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kU8, bytes);
  const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kU64, {static_cast<int64_t>(offsets.size())});
  auto stream = backend_->NewStream();
  ASSERT_TRUE(backend_->Checksum(*stream, {tensor, offsets, lengths, out}).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  const auto sums = out.Ints<uint64_t>();
  EXPECT_EQ(sums[0], 0x2D06800538D394C2ull);  // XXH3-64 of nothing
  for (size_t i = 0; i < sums.size(); ++i) {
    EXPECT_EQ(sums[i], XXH3_64bits(bytes.data() + offsets[i], static_cast<size_t>(lengths[i])));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ShiftTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
