// VDPBF16PS against its definition, products in blocks against plain loops over it, and Linear over both. Where the CPU
// does not have the instruction, the emulation is still tested, and Linear over it.
#include "kernels/cpu/bf16/avx512_bf16.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/bf16.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/bf16/amx.h"
#include "kernels/cpu/cpu.h"
#include "tests/kernels/tile_case.h"
#include "tests/support/device_tensor.h"

namespace kvlink::kernels::cpu {
namespace {

using testing::DeviceTensor;
using testing::TestSeed;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

uint32_t PairOf(float even, float odd) { return FloatToBf16(even) | uint32_t{FloatToBf16(odd)} << 16; }

// As bits, so that signs of zero count; every NaN is the same.
std::vector<uint32_t> BitsOf(absl::Span<const float> values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value));
  return bits;
}

TEST(EmulatedDotTest, AddsTheOddProductFirst) {
  const float big = 16777216;  // 2^24: adding 1 to it is lost
  EXPECT_EQ(EmulatedDot(5, PairOf(2, 3), PairOf(7, 11)), 5.0f + 14.0f + 33.0f);
  EXPECT_EQ(EmulatedDot(1, PairOf(-big, big), PairOf(1, 1)), 0.0f);
  EXPECT_EQ(EmulatedDot(1, PairOf(big, -big), PairOf(1, 1)), 1.0f);
  EXPECT_EQ(EmulatedDot(0, PairOf(1, big), PairOf(1, 1)), big);
  EXPECT_EQ(EmulatedDot(-big, PairOf(1, big), PairOf(1, 1)), 1.0f);
}

TEST(EmulatedDotTest, RoundsEachFusedAdditionToNearestEven) {
  const float big = 16777216;
  EXPECT_EQ(EmulatedDot(big, PairOf(1, 1), PairOf(1, 1)), big);          // two ties, both to even
  EXPECT_EQ(EmulatedDot(big + 2, PairOf(0, 1), PairOf(0, 1)), big + 4);  // a tie to even, upwards
  EXPECT_EQ(EmulatedDot(big, PairOf(0, 1), PairOf(0, 1.0078125f)), big + 2);
  const float huge = std::ldexp(1.0f, 127);
  EXPECT_EQ(EmulatedDot(-huge, PairOf(0, huge), PairOf(0, 2)), huge);  // the product alone is infinite
  EXPECT_EQ(EmulatedDot(0, PairOf(0, huge), PairOf(0, 2)), kInfinity);
  EXPECT_TRUE(std::isnan(EmulatedDot(0, PairOf(kInfinity, 0), PairOf(0, 0))));
}

TEST(EmulatedDotTest, TakesDenormalsForZero) {
  const float least = std::numeric_limits<float>::min();
  EXPECT_EQ(EmulatedDot(0, PairOf(least / 2, least / 4), PairOf(1024, 1024)), 0.0f);
  EXPECT_EQ(EmulatedDot(least / 2, PairOf(0, 0), PairOf(0, 0)), 0.0f);
  EXPECT_EQ(EmulatedDot(0, PairOf(least, 0), PairOf(0.5f, 0)), 0.0f);
  EXPECT_EQ(EmulatedDot(0, PairOf(least, 0), PairOf(1, 0)), least);
  EXPECT_EQ(EmulatedDot(least, PairOf(-least, 0), PairOf(0.5f, 0)), 0.0f);
}

// Random bits, and all pairs of numbers at the edges.
class InstructionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    multiply_ = Avx512Bf16MultiplyPairs();
    if (multiply_ == nullptr) GTEST_SKIP() << "no AVX512_BF16 here";
  }

  // 16 sums at a time.
  void ExpectDefinition(uint32_t x, absl::Span<const uint32_t> y, absl::Span<const float> sums) const {
    std::vector<float> actual(sums.begin(), sums.end()), expected;
    for (size_t i = 0; i < sums.size(); ++i) expected.push_back(EmulatedDot(sums[i], x, y[i]));
    multiply_({.x = &x,
               .x_stride = 1,
               .y = y.data(),
               .rows = 1,
               .columns = static_cast<int64_t>(y.size()),
               .pairs = 1,
               .c = actual.data(),
               .c_stride = static_cast<int64_t>(y.size()),
               .accumulate = true});
    const std::vector<uint32_t> actual_bits = BitsOf(actual), expected_bits = BitsOf(expected);
    for (size_t i = 0; i < sums.size(); ++i) {
      ASSERT_EQ(actual_bits[i], expected_bits[i]) << std::hexfloat << sums[i] << " with pairs " << std::hex << x
                                                  << " and " << y[i] << ": " << actual[i] << ", not " << expected[i];
    }
  }

  MultiplyPairs multiply_ = nullptr;
};

TEST_F(InstructionTest, IsAsDefinedOnRandomBits) {
  std::mt19937_64 random(TestSeed());
  const auto word = [&] { return static_cast<uint32_t>(random()); };
  for (int i = 0; i < 20000 && !HasFatalFailure(); ++i) {
    std::vector<uint32_t> y(16);
    std::vector<float> sums(16);
    // Exponents of any size, or near each other, so that additions round and cancel.
    const bool near = i % 2 == 0;
    const uint32_t same = word() & 0x7e007e00u;
    const auto pair = [&] { return near ? (word() & 0x81ff81ffu) | same : word(); };
    for (int lane = 0; lane < 16; ++lane) {
      y[lane] = pair();
      sums[lane] = std::bit_cast<float>(word());
    }
    const uint32_t x = pair();
    for (int lane = 0; near && lane < 16; ++lane) {
      const float product = Bf16ToFloat(static_cast<uint16_t>(x)) * Bf16ToFloat(static_cast<uint16_t>(y[lane]));
      sums[lane] = std::bit_cast<float>((std::bit_cast<uint32_t>(product) & 0xff800000u) ^ (word() & 0x83ffffffu));
    }
    ExpectDefinition(x, y, sums);
  }
}

TEST_F(InstructionTest, IsAsDefinedAtTheEdges) {
  const float least = std::numeric_limits<float>::min(), most = std::numeric_limits<float>::max();
  std::vector<uint16_t> numbers;
  for (const float value :
       {0.0f, 1.0f, 1.0078125f, 3.0f, 16777216.0f, least, least * 1.5f, least / 2, least / 64, std::ldexp(1.0f, -133),
        std::ldexp(1.9921875f, 127), 1e20f, 1e-20f, kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    numbers.push_back(FloatToBf16(value));
    numbers.push_back(FloatToBf16(-value));
  }
  std::vector<float> sums = {0.0f,        -0.0f,
                             1.0f,        -1.0f,
                             16777217.0f, least,
                             -least,      least / 2,
                             -least / 2,  std::numeric_limits<float>::denorm_min(),
                             most,        -most,
                             kInfinity,   -kInfinity,
                             1e-20f,      std::numeric_limits<float>::quiet_NaN()};
  std::mt19937_64 random(TestSeed() + 1);
  const auto number = [&] { return uint32_t{numbers[random() % numbers.size()]}; };
  for (int i = 0; i < 100000 && !HasFatalFailure(); ++i) {
    ExpectDefinition(number() | number() << 16, std::vector<uint32_t>(16, number() | number() << 16), sums);
  }
}

TEST(Avx512Bf16Test, EmulatedProductsAreRight) { ExpectProductsRight(EmulatedAvx512Bf16Multiply); }

// Bit by bit, gaps included.
TEST(Avx512Bf16Test, ProductsEqualTheEmulation) {
  const MultiplyTiles multiply = Avx512Bf16Multiply();
  if (multiply == nullptr) GTEST_SKIP() << "no AVX512_BF16 here";
  ExpectProductsRight(multiply);
  const uint64_t seed = TestSeed() + 2;
  std::mt19937_64 random(seed);
  for (int i = 0; i < 50 && !HasFailure(); ++i) {
    const auto size = [&](uint64_t most) { return static_cast<int64_t>(1 + random() % most); };
    const int64_t rows = size(70), columns = size(150), steps = size(5);
    SCOPED_TRACE(absl::StrCat(rows, " x ", columns, ", ", steps, " steps"));
    std::mt19937_64 one(seed + static_cast<uint64_t>(i)), other = one;
    const TileCase actual(rows, columns, steps, one), expected(rows, columns, steps, other);
    multiply({&actual.product(), 1});
    EmulatedAvx512Bf16Multiply({&expected.product(), 1});
    EXPECT_EQ(BitsOf(actual.out()), BitsOf(expected.out()));
  }
}

// Matrices of exactly their size, so that AddressSanitizer sees what is read beyond them.
TEST(Avx512Bf16Test, PairsEqualTheEmulation) {
  const MultiplyPairs multiply = Avx512Bf16MultiplyPairs();
  if (multiply == nullptr) GTEST_SKIP() << "no AVX512_BF16 here";
  std::mt19937_64 random(TestSeed() + 3);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 100 && !HasFailure(); ++i) {
    PairProduct product;
    product.rows = static_cast<int64_t>(1 + random() % 20);
    product.columns = static_cast<int64_t>(16 * (1 + random() % 6));
    product.pairs = static_cast<int64_t>(1 + random() % 100);
    product.accumulate = random() % 2 == 0;
    product.x_stride = product.pairs + static_cast<int64_t>(random() % 3);
    product.c_stride = product.columns + static_cast<int64_t>(random() % 3);
    product.ahead_lines = static_cast<int64_t>(random() % 3);
    SCOPED_TRACE(absl::StrCat(product.rows, " x ", product.columns, ", ", product.pairs, " pairs"));
    std::vector<uint32_t> x(static_cast<size_t>((product.rows - 1) * product.x_stride + product.pairs));
    std::vector<uint32_t> y(static_cast<size_t>(product.pairs * product.columns));
    for (uint32_t& pair : x) pair = PairOf(normal(random), normal(random));
    for (uint32_t& pair : y) pair = PairOf(normal(random), normal(random));
    std::vector<float> actual(static_cast<size_t>((product.rows - 1) * product.c_stride + product.columns));
    for (float& value : actual) value = normal(random);
    std::vector<float> expected = actual;
    product.x = x.data(), product.y = y.data(), product.ahead = y.data();
    product.c = actual.data();
    multiply(product);
    product.c = expected.data();
    EmulatedMultiplyPairs(product);
    EXPECT_EQ(BitsOf(actual), BitsOf(expected));
  }
}

TEST(Avx512Bf16Test, IsChosenByItself) {
  const auto chosen = MakeCpuBackend({});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  if (HasAvx512Bf16()) {
    EXPECT_EQ((*chosen)->compute_dtype(), Dtype::kBf16);
  } else if (!HasAmx()) {
    EXPECT_EQ((*chosen)->compute_dtype(), Dtype::kF32);
  }
}

// A product of Linear: x in f32 or bf16, with `gap` elements behind each row.
struct LinearShape {
  int64_t rows, n, k;
  Dtype x;
  int64_t gap;
  Epilogue epilogue;
};

class PairsLinearTest : public ::testing::Test {
 protected:
  // Rows [begin, begin + count) of the product.
  static std::vector<float> Run(Backend& backend, const LinearShape& shape, int64_t begin, int64_t count) {
    std::mt19937_64 random(TestSeed() + 4);
    std::normal_distribution<float> normal;
    std::vector<float> weight(static_cast<size_t>(shape.n * shape.k)), x(static_cast<size_t>(shape.rows * shape.k));
    for (float& value : weight) value = normal(random);
    for (float& value : x) value = normal(random);
    const auto packed = backend.PackWeights(Tensor::Dense(weight.data(), Dtype::kF32, {}, {shape.n, shape.k}));
    EXPECT_TRUE(packed.ok()) << packed.status();
    const absl::Span<const float> rows = absl::MakeConstSpan(x).subspan(begin * shape.k, count * shape.k);
    const auto from =
        DeviceTensor::Of(&backend, shape.x, {count, shape.k}, {rows.begin(), rows.end()}, {shape.k + shape.gap, 1});
    const int64_t columns = shape.epilogue == Epilogue::kSiluMul ? shape.n / 2 : shape.n;
    const auto out = DeviceTensor::Poisoned(&backend, Dtype::kF32, {count, columns});
    const testing::DeviceWorkspace workspace(&backend, backend.LinearWorkspaceBytes(count, **packed, shape.epilogue));
    const auto stream = backend.NewStream();
    EXPECT_TRUE(backend.Linear(*stream, {from, packed->get(), {}, shape.epilogue, out, workspace}).ok());
    return out.Floats();
  }

  const Threads threads_{2};
  const std::unique_ptr<Backend> emulated_ = MakeBackend(threads_, {.bf16 = true, .pairs = EmulatedMultiplyPairs});
  const std::vector<LinearShape> shapes_ = {
      {1, 64, 96, Dtype::kF32, 0, Epilogue::kNone},        {5, 130, 97, Dtype::kBf16, 3, Epilogue::kNone},
      {9, 70, 1300, Dtype::kBf16, 0, Epilogue::kNone},     {40, 256, 66, Dtype::kBf16, 2, Epilogue::kSiluMul},
      {13, 66, 1024, Dtype::kBf16, 0, Epilogue::kSiluMul}, {150, 64, 33, Dtype::kF32, 1, Epilogue::kNone},
  };
};

TEST_F(PairsLinearTest, EqualsTheEmulation) {
  if (!HasAvx512Bf16()) GTEST_SKIP() << "no AVX512_BF16 here";
  const auto backend = MakeBackend(threads_, {.bf16 = true, .pairs = Avx512Bf16MultiplyPairs()});
  for (const LinearShape& shape : shapes_) {
    SCOPED_TRACE(absl::StrCat(shape.rows, " x ", shape.n, " x ", shape.k));
    EXPECT_EQ(Run(*backend, shape, 0, shape.rows), Run(*emulated_, shape, 0, shape.rows));
  }
}

TEST_F(PairsLinearTest, ARowDoesNotDependOnTheOthers) {
  for (const LinearShape& shape : shapes_) {
    SCOPED_TRACE(absl::StrCat(shape.rows, " x ", shape.n, " x ", shape.k));
    const std::vector<float> together = Run(*emulated_, shape, 0, shape.rows);
    const auto columns = static_cast<int64_t>(together.size()) / shape.rows;
    for (const int64_t row : {int64_t{0}, shape.rows / 2, shape.rows - 1}) {
      const absl::Span<const float> expected = absl::MakeConstSpan(together).subspan(row * columns, columns);
      EXPECT_EQ(Run(*emulated_, shape, row, 1), std::vector<float>(expected.begin(), expected.end())) << "row " << row;
    }
  }
}

}  // namespace
}  // namespace kvlink::kernels::cpu
