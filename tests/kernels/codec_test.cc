// Pack and Decode on every backend: the bytes of the layout, the error of each codec, what comes out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "base/slab.h"
#include "kernels/ref/ref.h"
#include "tests/support/backends.h"
#include "tests/support/device_tensor.h"
#include "tests/support/seed.h"

namespace kvlink::testing {
namespace {

using kernels::Dtype;
using kernels::Rope;

// Unpacked keys and values: [head][token][dim], keys as they are in the pages (rotated locally).
struct Plain {
  std::vector<float> keys, values;
};

Rope TestRope(int64_t dim) {
  kernels::RopeConfig config{.type = kernels::RopeConfig::Type::kYarn, .theta = 10000, .rotary_dim = dim, .factor = 4};
  config.original_context = 4096;
  return kernels::MakeRope(config).value();
}

// Pure rotation of one row in f64.
std::vector<double> Rotated(const Rope& rope, int64_t position, const float* row, int64_t dim) {
  std::vector<double> out(row, row + dim);
  const int64_t half = rope.rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * rope.inv_freq[i];
    const double a = static_cast<double>(row[i]), b = static_cast<double>(row[i + half]);
    out[i] = a * std::cos(angle) - b * std::sin(angle);
    out[i + half] = a * std::sin(angle) + b * std::cos(angle);
  }
  return out;
}

// Walks the bytes of a slab in the order the layout's text gives, knowing none of SlabShape's offsets.
class Cursor {
 public:
  explicit Cursor(const std::vector<std::byte>& bytes) : bytes_(bytes) {}
  template <typename T>
  T Take() {
    T value{};
    EXPECT_LE(at_ + sizeof(T), bytes_.size());
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  float TakeBf16() { return kernels::Bf16ToFloat(Take<uint16_t>()); }
  std::vector<float> TakeRow(Codec codec, int64_t dim) {
    std::vector<float> row(static_cast<size_t>(dim));
    for (int64_t d = 0; d < dim; ++d) {
      if (codec == Codec::kRawF32) row[d] = Take<float>();
      if (codec == Codec::kRawBf16) row[d] = TakeBf16();
      if (codec == Codec::kQ8) row[d] = static_cast<float>(Take<int8_t>());
      if (codec == Codec::kQ4 && d % 2 == 0) {
        const uint8_t byte = Take<uint8_t>();
        row[d] = static_cast<float>(byte & 15);
        row[d + 1] = static_cast<float>(byte >> 4);
      }
    }
    return row;
  }
  bool RestIsZero() const {
    return std::all_of(bytes_.begin() + static_cast<int64_t>(at_), bytes_.end(),
                       [](std::byte b) { return b == std::byte{0}; });
  }
  size_t at() const { return at_; }

 private:
  const std::vector<std::byte>& bytes_;
  size_t at_ = 0;
};

// A decoded slab, [head][token][dim], and half a step of each element's quantiser.
struct Decoded {
  std::vector<double> keys, values, key_error, value_error;
};

Decoded Decode(const SlabShape& shape, const std::vector<std::byte>& bytes) {
  Decoded decoded;
  Cursor cursor(bytes);
  const int64_t dim = shape.head_dim;
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t first = 0; first < shape.tokens; first += 64) {
      const int64_t n = std::min<int64_t>(64, shape.tokens - first);
      std::vector<std::vector<float>> rows;
      for (int64_t i = 0; i < 2 * n; ++i) rows.push_back(cursor.TakeRow(shape.codec, dim));
      std::vector<float> scales;  // in the order they are stored
      const int64_t count = shape.codec == Codec::kQ8 ? 2 * n : shape.codec == Codec::kQ4 ? 2 * dim + 2 * n : 0;
      for (int64_t i = 0; i < count; ++i)
        scales.push_back(shape.codec == Codec::kQ8 ? cursor.Take<float>() : cursor.TakeBf16());
      for (int64_t i = 0; i < 2 * n; ++i) {
        const bool key = i < n;
        const int64_t t = key ? i : i - n;
        for (int64_t d = 0; d < dim; ++d) {
          double scale = 1, min = 0, error = 0;
          if (shape.codec == Codec::kQ8) scale = scales[i], error = scale / 2;
          if (shape.codec == Codec::kQ4) {
            scale = key ? scales[d] : scales[2 * dim + t];
            min = key ? scales[dim + d] : scales[2 * dim + n + t];
            error = scale / 2;
          }
          (key ? decoded.keys : decoded.values).push_back(min + scale * static_cast<double>(rows[i][d]));
          (key ? decoded.key_error : decoded.value_error).push_back(error);
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(cursor.at()), shape.used_bytes());
  EXPECT_TRUE(cursor.RestIsZero());
  return decoded;
}

class CodecTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override { backend_ = GetParam().make(); }

  static Plain Random(const SlabShape& shape, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0, 1);
    Plain plain;
    for (int64_t i = 0; i < shape.kv_heads * shape.tokens * shape.head_dim; ++i) {
      plain.keys.push_back(normal(random) * (i % shape.head_dim == 3 ? 20 : 1) + (i % shape.head_dim == 5 ? 9 : 0));
      plain.values.push_back(normal(random));
    }
    return plain;
  }

  // Private pages, block b on page table[b], the rest poisoned.
  static DeviceTensor Pages(kernels::Backend* backend, const SlabShape& shape, const Plain& plain, Dtype dtype,
                            std::vector<int32_t>* table) {
    const int64_t pages = shape.blocks() + 2, dim = shape.head_dim;
    table->clear();
    for (int64_t b = 0; b < shape.blocks(); ++b) table->push_back(static_cast<int32_t>(pages - 1 - b));
    std::vector<float> values(static_cast<size_t>(pages * shape.kv_heads * 128 * dim), NAN);
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      for (int64_t t = 0; t < shape.tokens; ++t) {
        const int64_t row = ((*table)[t / 64] * shape.kv_heads + head) * 128 + t % 64;
        const int64_t from = (head * shape.tokens + t) * dim;
        std::copy_n(plain.keys.begin() + from, dim, values.begin() + row * dim);
        std::copy_n(plain.values.begin() + from, dim, values.begin() + (row + 64) * dim);
      }
    }
    const int64_t page = shape.kv_heads * 128 * dim;
    return DeviceTensor::Of(backend, dtype, {pages, shape.kv_heads, 128, dim}, values, {page + 64, 128 * dim, dim, 1});
  }

  static absl::StatusOr<std::vector<std::byte>> Pack(kernels::Backend* backend, const SlabShape& shape,
                                                     const Plain& plain, Dtype dtype, const Rope& rope) {
    std::vector<int32_t> table;
    const auto pages = Pages(backend, shape, plain, dtype, &table);
    const auto slab = DeviceTensor::Poisoned(backend, Dtype::kU8, {shape.slab_bytes()});
    auto stream = backend->NewStream();
    absl::Status status = backend->Pack(*stream, {shape, pages, table.data(), &rope, slab});
    if (status.ok()) status = stream->Synchronize();
    if (!status.ok()) return status;
    return slab.Bytes();
  }
  absl::StatusOr<std::vector<std::byte>> ToRaw(const SlabShape& shape, const std::vector<std::byte>& bytes, Codec codec,
                                               const Rope& rope) {
    SlabShape raw = shape;
    raw.codec = codec;
    const auto source = DeviceTensor::OfInts(backend_.get(), Dtype::kU8, bytes);
    const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kU8, {raw.slab_bytes()});
    auto stream = backend_->NewStream();
    absl::Status status = backend_->Decode(*stream, {shape, source, codec, &rope, out});
    if (status.ok()) status = stream->Synchronize();
    if (!status.ok()) return status;
    return out.Bytes();
  }

  std::unique_ptr<kernels::Backend> backend_;
};

std::vector<SlabShape> Shapes(Codec codec) {
  return {{codec, 1, 64, 1},  {codec, 3, 64, 63},   {codec, 2, 80, 64},
          {codec, 1, 96, 65}, {codec, 2, 128, 150}, {codec, 1, 64, 577}};
}

template <typename T>
std::vector<T> Append(std::vector<T> bytes, std::initializer_list<int> more) {
  for (int byte : more) bytes.push_back(static_cast<T>(byte));
  return bytes;
}

// Two small slabs written out by hand.
TEST_P(CodecTest, BytesAreThoseOfTheLayout) {
  const Rope rope = TestRope(2);
  const auto expect = [&](Codec codec, const Plain& plain, std::initializer_list<int> bytes) {
    std::vector<std::byte> expected = Append(std::vector<std::byte>{}, bytes);
    expected.resize(4096);
    EXPECT_EQ(Pack(backend_.get(), {codec, 1, 2, 1}, plain, Dtype::kF32, rope).value(), expected) << CodecName(codec);
  };
  const Plain q8{{127, -63}, {254, 2}};
  expect(Codec::kQ8, q8, {0x7f, 0xc1, 0x7f, 0x01, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40});
  const Plain q4{{1, -2}, {0, 30}};  // a channel of one token is constant: scale 0, the min says it all
  expect(Codec::kQ4, q4, {0x00, 0xf0, 0, 0, 0, 0, 0x80, 0x3f, 0x00, 0xc0, 0x00, 0x40, 0, 0});
  expect(Codec::kRawBf16, q4, {0x80, 0x3f, 0x00, 0xc0, 0, 0, 0xf0, 0x41});
  expect(Codec::kRawF32, q4, {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0xf0, 0x41});
}

TEST_P(CodecTest, PackingStaysWithinHalfAStep) {
  for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    for (const SlabShape& shape : Shapes(codec)) {
      for (Dtype pages : {Dtype::kF32, Dtype::kBf16}) {
        SCOPED_TRACE(absl::StrCat(CodecName(codec), ", ", shape.tokens, " tokens of ", shape.head_dim));
        const Rope rope = TestRope(shape.head_dim);
        Plain plain = Random(shape, TestSeed());
        const auto slab = Pack(backend_.get(), shape, plain, pages, rope);
        ASSERT_TRUE(slab.ok()) << slab.status();
        plain = {Rounded(plain.keys, pages), Rounded(plain.values, pages)};
        const Decoded decoded = Decode(shape, *slab);
        std::vector<double> keys(plain.keys.begin(), plain.keys.end());
        if (codec == Codec::kQ4) {
          keys.clear();
          for (int64_t row = 0; row < shape.kv_heads * shape.tokens; ++row) {
            const auto back =
                Rotated(rope, -(row % shape.tokens), plain.keys.data() + row * shape.head_dim, shape.head_dim);
            keys.insert(keys.end(), back.begin(), back.end());
          }
        }
        // Half a step, and what f32 loses on the way; raw-bf16 rounds by 2^-8 relative.
        const auto check = [&](const std::vector<double>& got, const std::vector<double>& want,
                               const std::vector<double>& half, const char* what) {
          std::vector<float> actual(got.begin(), got.end());
          std::vector<double> tolerance(half.size());
          for (size_t i = 0; i < half.size(); ++i) {
            tolerance[i] = half[i] * 1.0001 + (codec == Codec::kRawF32 ? 0 : 3e-6 * (1 + std::fabs(want[i])));
            if (codec == Codec::kRawBf16) tolerance[i] += std::fabs(want[i]) / 255;
          }
          ExpectWithin(actual, want, tolerance, what);
        };
        check(decoded.keys, keys, decoded.key_error, "keys");
        check(decoded.values, {plain.values.begin(), plain.values.end()}, decoded.value_error, "values");
      }
    }
  }
}

// Bit by bit, except q4's keys: rotating them back may round differently.
TEST_P(CodecTest, PacksTheBytesTheScalarBackendPacks) {
  const auto reference = kernels::MakeRefBackend();
  for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    for (const SlabShape& shape : Shapes(codec)) {
      const Rope rope = TestRope(shape.head_dim);
      const Plain plain = Random(shape, TestSeed() + 1);
      const auto actual = Pack(backend_.get(), shape, plain, Dtype::kF32, rope).value();
      const auto expected = Pack(reference.get(), shape, plain, Dtype::kF32, rope).value();
      if (codec != Codec::kQ4) {
        EXPECT_TRUE(actual == expected) << CodecName(codec) << ", " << shape.tokens << " tokens of " << shape.head_dim;
        continue;
      }
      const Decoded a = Decode(shape, actual), b = Decode(shape, expected);
      EXPECT_EQ(a.values, b.values);
      std::vector<double> step(b.keys.size());
      for (size_t i = 0; i < step.size(); ++i) step[i] = 2 * b.key_error[i] * 1.01 + 1e-6 + std::fabs(b.keys[i]) / 128;
      ExpectWithin({a.keys.begin(), a.keys.end()}, b.keys, step, "q4 keys");
    }
  }
}

TEST_P(CodecTest, LandsWhatTheBytesSay) {
  const auto reference = kernels::MakeRefBackend();
  for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    for (const SlabShape& shape : Shapes(codec)) {
      const Rope rope = TestRope(shape.head_dim);
      const auto slab = Pack(reference.get(), shape, Random(shape, TestSeed() + 2), Dtype::kF32, rope).value();
      Decoded expected = Decode(shape, slab);
      if (codec == Codec::kQ4) {
        const std::vector<float> stored(expected.keys.begin(), expected.keys.end());
        expected.keys.clear();
        for (int64_t row = 0; row < shape.kv_heads * shape.tokens; ++row) {
          const auto forward = Rotated(rope, row % shape.tokens, stored.data() + row * shape.head_dim, shape.head_dim);
          expected.keys.insert(expected.keys.end(), forward.begin(), forward.end());
        }
      }
      for (Codec to : {Codec::kRawF32, Codec::kRawBf16}) {
        SCOPED_TRACE(
            absl::StrCat(CodecName(codec), " to ", CodecName(to), ", ", shape.tokens, " tokens of ", shape.head_dim));
        SlabShape raw = shape;
        raw.codec = to;
        const auto decoded = ToRaw(shape, slab, to, rope);
        ASSERT_TRUE(decoded.ok()) << decoded.status();
        if (to == codec) {
          EXPECT_TRUE(*decoded == slab);
        }
        const Decoded actual = Decode(raw, *decoded);
        const double relative = to == Codec::kRawF32 ? 3e-7 : 1.0 / 256;
        ExpectClose({actual.keys.begin(), actual.keys.end()}, expected.keys, 1e-5, relative, "keys");
        ExpectClose({actual.values.begin(), actual.values.end()}, expected.values, 1e-6, relative, "values");
      }
    }
  }
}

TEST_P(CodecTest, ConstantTinyAndHugeRowsHoldTheirBounds) {
  const Rope rope = TestRope(64);
  for (float value : {0.0f, -0.0f, 3.7f, -100.3f, 1e-38f, -1e-33f, 1e30f, 65504.0f}) {
    for (Codec codec : {Codec::kQ8, Codec::kQ4}) {
      const SlabShape shape{codec, 1, 64, 70};
      const Plain plain{std::vector<float>(70 * 64, value), std::vector<float>(70 * 64, value)};
      const auto slab = Pack(backend_.get(), shape, plain, Dtype::kF32, rope);
      ASSERT_TRUE(slab.ok()) << slab.status();
      const Decoded decoded = Decode(shape, *slab);
      const double relative = codec == Codec::kQ8 ? 1.0 / 254 : 1.0 / 256;
      ExpectClose({decoded.values.begin(), decoded.values.end()},
                  std::vector<double>(70 * 64, static_cast<double>(value)), 1.3e-28, relative,
                  absl::StrCat(CodecName(codec), " of ", value));
    }
  }
}

TEST_P(CodecTest, AValueThatIsNotFiniteIsNeverPacked) {
  for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      for (bool key : {true, false}) {
        for (int64_t at : {0, 77, 69 * 64 + 63}) {
          const SlabShape shape{codec, 2, 64, 70};
          Plain plain = Random(shape, TestSeed());
          (key ? plain.keys : plain.values)[static_cast<size_t>(70 * 64 + at)] = bad;
          const auto slab = Pack(backend_.get(), shape, plain, Dtype::kF32, TestRope(64));
          EXPECT_EQ(slab.status().code(), absl::StatusCode::kInternal)
              << CodecName(codec) << " " << bad << " at " << at;
        }
      }
    }
  }
  // Finite in f32, infinite in bf16.
  const SlabShape shape{Codec::kRawBf16, 1, 64, 1};
  Plain plain = Random(shape, TestSeed());
  plain.values[9] = 3.4e38f;
  EXPECT_EQ(Pack(backend_.get(), shape, plain, Dtype::kF32, TestRope(64)).status().code(), absl::StatusCode::kInternal);
}

INSTANTIATE_TEST_SUITE_P(Backends, CodecTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
