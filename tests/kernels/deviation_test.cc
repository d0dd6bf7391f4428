// How far recomputed keys and values are from cached ones, on every backend: against the definition, in f64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/support/backends.h"
#include "tests/support/device_tensor.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

using kernels::Dtype;
using kernels::Rope;
using kernels::RopeConfig;

// A segment's bytes, and the numbers that they hold.
struct Cached {
  std::vector<uint8_t> bytes;
  std::vector<double> keys, values;  // [head][token][dim]
  int64_t head_stride = 0, block_stride = 0;
  std::vector<int32_t> table;  // empty: blocks in order
};

// Blocks of 64 tokens in random order, the last one short unless `padded`.
Cached MakeCached(const SlabShape& shape, bool padded, bool shuffled, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  Cached cached;
  cached.block_stride = shape.block_stride();
  cached.head_stride = shape.blocks() * cached.block_stride + 64;
  cached.bytes.assign(static_cast<size_t>(shape.kv_heads * cached.head_stride), 0xff);
  for (int64_t b = 0; shuffled && b < shape.blocks(); ++b) cached.table.push_back(static_cast<int32_t>(b));
  std::shuffle(cached.table.begin(), cached.table.end(), random);
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t token = 0; token < shape.tokens; ++token) {
      const int64_t b = token / 64, n = padded ? 64 : shape.block_tokens(b), t = token % 64;
      uint8_t* block = cached.bytes.data() + head * cached.head_stride +
                       (shuffled ? cached.table[static_cast<size_t>(b)] : b) * cached.block_stride;
      for (const bool value : {false, true}) {
        uint8_t* row = block + (value ? shape.value_offset(n) : 0) + t * shape.row_bytes();
        const float scale = 0.01f + std::abs(normal(random)) / 100;
        if (shape.codec == Codec::kQ8) std::memcpy(block + shape.scale_offset(n) + 4 * (value ? n + t : t), &scale, 4);
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          float stored = normal(random);
          if (shape.codec == Codec::kRawF32) {
            std::memcpy(row + 4 * d, &stored, 4);
          } else if (shape.codec == Codec::kRawBf16) {
            const uint16_t half = kernels::FloatToBf16(stored);
            std::memcpy(row + 2 * d, &half, 2);
            stored = kernels::Bf16ToFloat(half);
          } else {
            const auto code = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
            std::memcpy(row + d, &code, 1);
            stored = scale * static_cast<float>(code);
          }
          (value ? cached.values : cached.keys).push_back(static_cast<double>(stored));
        }
      }
    }
  }
  return cached;
}

std::vector<double> Rotated(const Rope& rope, int64_t position, const double* row, int64_t dim) {
  std::vector<double> out(row, row + dim);
  const size_t half = rope.inv_freq.size();
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * rope.inv_freq[i], a = out[i], b = out[i + half];
    out[i] = a * std::cos(angle) - b * std::sin(angle);
    out[i + half] = a * std::sin(angle) + b * std::cos(angle);
  }
  return out;
}

class DeviationTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override {
    backend_ = GetParam().make();
    stream_ = backend_->NewStream();
  }
  // f32 rotates and subtracts: a difference is off by some 1e-7 of the row it is taken from, so its square by twice the
  // product of the two and by the square of that; the sums by 1e-6 of themselves.
  static double Tolerance(double expected) { return 1e-5 * expected + 2e-6 * std::sqrt(expected) + 1e-11; }

  void ExpectDefinition(uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto pick = [&](std::initializer_list<int64_t> choices) {
      return choices.begin()[random() % choices.size()];
    };
    const SlabShape shape{std::vector{Codec::kRawF32, Codec::kRawBf16, Codec::kQ8}[random() % 3], pick({1, 2, 3}),
                          pick({34, 64, 80, 128}), pick({1, 63, 64, 65, 200})};
    const bool padded = shape.codec != Codec::kQ8 && random() % 2 == 0, shuffled = random() % 2 == 0;
    RopeConfig config{.type = random() % 2 == 0 ? RopeConfig::Type::kDefault : RopeConfig::Type::kYarn};
    config.rotary_dim = random() % 4 == 0 ? shape.head_dim / 4 * 2 : shape.head_dim;
    config.factor = config.type == RopeConfig::Type::kDefault ? 1 : 8;
    config.original_context = 8192;
    const Rope rope = kernels::MakeRope(config).value();
    const int64_t offset = pick({0, 1, 777, 100000});
    const Dtype dtype = random() % 2 == 0 ? Dtype::kF32 : Dtype::kBf16;
    SCOPED_TRACE(absl::StrCat("seed ", seed, ": ", CodecName(shape.codec), " ", kernels::DtypeName(dtype), ", ",
                              shape.kv_heads, " heads of ", shape.head_dim, ", ", shape.tokens, " tokens at ", offset));
    const Cached cached = MakeCached(shape, padded, shuffled, random);

    constexpr int64_t kRows = 21, kPages = 2;
    const int64_t heads = shape.kv_heads, dim = shape.head_dim;
    std::vector<int64_t> tokens, slots(kPages * 64);
    for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int64_t>(i);
    std::shuffle(slots.begin(), slots.end(), random);
    slots.resize(kRows);
    std::vector<float> pages(static_cast<size_t>(kPages * heads * 128 * dim), NAN);
    std::vector<double> expected, tolerance;
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < kRows; ++row) {
      tokens.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(shape.tokens)));
      const float key_noise = static_cast<float>(pick({0, 1, 100})) / 100,
                  value_noise = static_cast<float>(pick({0, 1, 100})) / 100;
      double differences[2] = {}, squares[2] = {};
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t from = (head * shape.tokens + tokens.back()) * dim;
        const std::vector<double> was[2] = {Rotated(rope, offset, cached.keys.data() + from, dim),
                                            {cached.values.begin() + from, cached.values.begin() + from + dim}};
        for (size_t which = 0; which < 2; ++which) {
          const int64_t to = ((slots[static_cast<size_t>(row)] / 64 * heads + head) * 128 +
                              static_cast<int64_t>(which) * 64 + slots[static_cast<size_t>(row)] % 64) *
                             dim;
          for (int64_t d = 0; d < dim; ++d) {
            const double old = was[which][static_cast<size_t>(d)];
            float is = static_cast<float>(old) + (which == 0 ? key_noise : value_noise) * normal(random);
            if (dtype == Dtype::kBf16) is = kernels::Bf16ToFloat(kernels::FloatToBf16(is));
            pages[static_cast<size_t>(to + d)] = is;
            differences[which] += (static_cast<double>(is) - old) * (static_cast<double>(is) - old);
            squares[which] += old * old;
          }
        }
      }
      expected.push_back(differences[0] / squares[0] + differences[1] / squares[1]);
      tolerance.push_back(Tolerance(expected.back()));
    }
    const auto data = DeviceTensor::OfInts(backend_.get(), Dtype::kU8, cached.bytes);
    const auto poison = DeviceTensor::Poisoned(backend_.get(), Dtype::kU8, {64});
    const std::byte* layers[] = {poison.data(), data.data()};
    kernels::KvDeviationArgs args;
    args.segment = {.codec = shape.codec,
                    .layer_data = layers,
                    .block_table = shuffled ? cached.table.data() : nullptr,
                    .head_stride = cached.head_stride,
                    .block_stride = cached.block_stride,
                    .tokens = shape.tokens,
                    .padded_blocks = padded};
    args.layer = 1, args.offset = offset, args.rope = &rope;
    const auto token_tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, tokens);
    const auto slot_tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, slots);
    const auto page_tensor = DeviceTensor::Of(backend_.get(), dtype, {kPages, heads, 128, dim}, pages,
                                              {heads * 128 * dim + 8, 128 * dim, dim, 1});
    const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {kRows});
    args.tokens = token_tensor, args.slots = slot_tensor, args.pages = page_tensor, args.out = out;
    ASSERT_TRUE(backend_->KvDeviation(*stream_, args).ok());
    ASSERT_TRUE(stream_->Synchronize().ok());
    ExpectWithin(out.Floats(), expected, tolerance, "deviation");
  }

  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<kernels::Stream> stream_;
};

TEST_P(DeviationTest, IsItsDefinition) {
  for (uint64_t i = 0; i < (Soak() ? 1000 : 40) && !HasFailure(); ++i) ExpectDefinition(TestSeed() + i);
}

// One head of dimension 64, two tokens: 0 is all ones, 1 all zeros. Slot 0 holds zeros, slot 1 ones.
class SmallDeviationTest : public DeviationTest {
 protected:
  void SetUp() override {
    DeviationTest::SetUp();
    std::vector<float> cached(4 * 64, 0.0f), pages(128 * 64, 0.0f);
    for (size_t i = 0; i < 64; ++i) cached[i] = cached[2 * 64 + i] = pages[64 + i] = pages[65 * 64 + i] = 1;
    data_ = DeviceTensor::Of(backend_.get(), Dtype::kF32, {4 * 64}, cached);
    pages_ = DeviceTensor::Of(backend_.get(), Dtype::kF32, {1, 1, 128, 64}, pages);
    layers_[0] = data_.data();
  }
  absl::Status Run(const std::vector<int64_t>& tokens, const std::vector<int64_t>& slots, std::vector<float>* out) {
    kernels::KvDeviationArgs args;
    args.segment = {.codec = Codec::kRawF32, .layer_data = layers_, .tokens = 2};
    args.rope = &rope_;
    const auto token_tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, tokens);
    const auto slot_tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, slots);
    const auto result = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {static_cast<int64_t>(tokens.size())});
    args.tokens = token_tensor, args.slots = slot_tensor, args.pages = pages_, args.out = result;
    const absl::Status launched = backend_->KvDeviation(*stream_, args);
    if (!launched.ok()) return launched;
    const absl::Status done = stream_->Synchronize();
    *out = result.Floats();
    return done;
  }
  const Rope rope_ = kernels::MakeRope({.rotary_dim = 64}).value();
  DeviceTensor data_, pages_;
  const std::byte* layers_[1] = {};
};

// The same gives 0, also where what was cached is 0; something for nothing is infinite; 0 for something is 1 each.
TEST_P(SmallDeviationTest, OfNothingAndOfTheSame) {
  std::vector<float> out;
  ASSERT_TRUE(Run({0, 1, 0, 1}, {1, 0, 0, 1}, &out).ok());
  EXPECT_EQ(out, (std::vector<float>{0, 0, 2, INFINITY}));
  ASSERT_TRUE(Run({}, {}, &out).ok());
  EXPECT_TRUE(out.empty());
}

TEST_P(SmallDeviationTest, TokensAndSlotsOutOfRangeAreReported) {
  std::vector<float> out;
  for (int64_t bad : {int64_t{-1}, int64_t{1} << 61}) {
    EXPECT_EQ(Run({0, bad}, {0, 0}, &out).message(), absl::StrCat("KvDeviation: row 1 has token ", bad, " of 2"));
    EXPECT_EQ(Run({0, 0}, {0, bad}, &out).message(), absl::StrCat("KvDeviation: row 1 has slot ", bad, " of 64"));
  }
  EXPECT_EQ(Run({2}, {0}, &out).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Run({0}, {64}, &out).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(Run({0}, {0}, &out).ok());
}

INSTANTIATE_TEST_SUITE_P(Backends, DeviationTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Backends, SmallDeviationTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
