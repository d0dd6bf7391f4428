// Embed, AddRmsNorm, Linear and QkvFinish on every backend, against formulas in f64 written here.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/support/backends.h"
#include "tests/support/device_tensor.h"
#include "tests/support/seed.h"
#ifdef KVLINK_TEST_BF16
#include "kernels/cpu/backend.h"
#include "kernels/cpu/bf16/avx512_bf16.h"
#endif

namespace kvlink::testing {
namespace {

using kernels::Dtype;
using kernels::Epilogue;

constexpr double kBf16Ulp =
    1.0 / 128;  // one step of bf16, relative: a rounding (1/256) that a tiny difference may turn

class RowsTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override {
    backend_ = GetParam().make();
    stream_ = backend_->NewStream();
    random_.seed(TestSeed());
  }
  std::vector<float> Normal(int64_t count, float deviation = 1) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal(random_);
    return values;
  }
  DeviceTensor Make(Dtype dtype, std::vector<int64_t> sizes, const std::vector<float>& values, int64_t row_gap = 0) {
    return DeviceTensor::Of(backend_.get(), dtype, sizes, values, Strides(sizes, row_gap));
  }
  DeviceTensor Empty(Dtype dtype, std::vector<int64_t> sizes, int64_t row_gap = 0) {
    return DeviceTensor::Poisoned(backend_.get(), dtype, sizes, Strides(sizes, row_gap));
  }
  // Dense, with a gap after each row of the first dimension.
  static std::vector<int64_t> Strides(const std::vector<int64_t>& sizes, int64_t row_gap) {
    std::vector<int64_t> strides(sizes.size());
    int64_t stride = 1;
    for (size_t i = sizes.size(); i-- > 0;) {
      strides[i] = stride + (i == 0 && sizes.size() > 1 ? row_gap : 0);
      stride *= sizes[i];
    }
    return strides;
  }
  void Done(const absl::Status& launched) {
    ASSERT_TRUE(launched.ok()) << launched;
    const absl::Status status = stream_->Synchronize();
    ASSERT_TRUE(status.ok()) << status;
  }

  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<kernels::Stream> stream_;
  std::mt19937_64 random_;
};

TEST_P(RowsTest, EmbedTakesRowsOfBothTables) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kBf16}) {
    constexpr int64_t kVocab = 11, kExtra = 3, kHidden = 37;
    const auto table_values = Normal(kVocab * kHidden), extra_values = Normal(kExtra * kHidden);
    const std::vector<int32_t> ids = {10, 0, 13, 11, 5, 5};
    const auto table = Make(dtype, {kVocab, kHidden}, table_values, 5),
               extra = Make(Dtype::kF32, {kExtra, kHidden}, extra_values);
    const auto id_tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kI32, ids);
    const auto out = Empty(Dtype::kF32, {6, kHidden}, 3);
    Done(backend_->Embed(*stream_, {id_tensor, table, extra, out}));
    const auto rounded = Rounded(table_values, dtype);
    std::vector<float> expected;
    for (int32_t id : ids) {
      const auto& from = id < kVocab ? rounded : extra_values;
      const int64_t row = id < kVocab ? id : id - kVocab;
      expected.insert(expected.end(), from.begin() + row * kHidden, from.begin() + (row + 1) * kHidden);
    }
    EXPECT_EQ(out.Floats(), expected);
    EXPECT_TRUE(out.GapsIntact());
  }
}

TEST_P(RowsTest, EmbedReportsIdsOutOfRange) {
  const auto table = Make(Dtype::kF32, {4, 8}, Normal(32));
  for (int32_t id : {-1, 4, 1 << 30, -(1 << 30)}) {
    const auto ids = DeviceTensor::OfInts(backend_.get(), Dtype::kI32, std::vector<int32_t>{0, id, 1});
    const auto out = Empty(Dtype::kF32, {3, 8});
    ASSERT_TRUE(backend_->Embed(*stream_, {ids, table, {}, out}).ok());
    EXPECT_EQ(stream_->Synchronize().code(), absl::StatusCode::kInternal) << id;
    EXPECT_TRUE(stream_->Synchronize().ok());  // reported once
  }
}

TEST_P(RowsTest, AddRmsNormAddsAndNormalises) {
  for (const auto& [rows, hidden] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 576}, {5, 77}, {2, 2049}}) {
    for (Dtype out_dtype : {Dtype::kF32, Dtype::kBf16}) {
      for (int delta_kind : {0, 1, 2}) {  // none, f32, bf16
        const Dtype delta_dtype = delta_kind == 2 ? Dtype::kBf16 : Dtype::kF32;
        const auto residual_values = Normal(rows * hidden, 3), weights = Normal(hidden);
        const auto delta_values = Rounded(Normal(rows * hidden), delta_dtype);
        const auto residual = Make(Dtype::kF32, {rows, hidden}, residual_values, 2);
        const auto delta = Make(delta_dtype, {rows, hidden}, delta_values, 4);
        const auto weight = Make(Dtype::kF32, {hidden}, weights);
        const auto out = Empty(out_dtype, {rows, hidden}, 6);
        const float eps = 1e-5f;
        Done(backend_->AddRmsNorm(*stream_,
                                  {residual, delta_kind == 0 ? kernels::Tensor{} : delta.view(), weight, eps, out}));
        std::vector<double> sums(residual_values.begin(), residual_values.end()), expected;
        for (int64_t row = 0; row < rows; ++row) {
          double squares = 0;
          for (int64_t j = row * hidden; j < (row + 1) * hidden; ++j) {
            if (delta_kind != 0) sums[j] += static_cast<double>(delta_values[j]);
            squares += sums[j] * sums[j];
          }
          for (int64_t j = 0; j < hidden; ++j) {
            expected.push_back(sums[row * hidden + j] /
                               std::sqrt(squares / static_cast<double>(hidden) + static_cast<double>(eps)) *
                               static_cast<double>(weights[j]));
          }
        }
        // f32: a sum of squares and four products; the sum's error shrinks under the root.
        ExpectClose(residual.Floats(), sums, 0, 1.2e-7, "residual");
        ExpectClose(out.Floats(), expected, 1e-6, out_dtype == Dtype::kF32 ? 1e-5 : kBf16Ulp, "out");
        EXPECT_TRUE(residual.GapsIntact() && out.GapsIntact());
      }
    }
  }
}

struct LinearCase {
  int64_t rows, n, k;
  Dtype x, weight, out;
  bool bias;
  Epilogue epilogue;
};

TEST_P(RowsTest, LinearMultiplies) {
  const Dtype f32 = Dtype::kF32, bf16 = Dtype::kBf16;
  const std::vector<LinearCase> cases = {
      {1, 1, 1, f32, f32, f32, false, Epilogue::kNone},       {1, 64, 96, f32, f32, f32, true, Epilogue::kNone},
      {17, 33, 65, f32, bf16, f32, false, Epilogue::kNone},   {33, 130, 576, bf16, bf16, bf16, true, Epilogue::kNone},
      {5, 48, 100, bf16, f32, f32, true, Epilogue::kNone},    {1, 96, 64, f32, f32, f32, false, Epilogue::kSiluMul},
      {9, 130, 576, f32, f32, f32, true, Epilogue::kSiluMul}, {40, 66, 64, bf16, bf16, bf16, false, Epilogue::kSiluMul},
      {0, 8, 8, f32, f32, f32, false, Epilogue::kNone},
  };
  for (const LinearCase& c : cases) {
    SCOPED_TRACE(absl::StrCat(c.rows, " x ", c.n, " x ", c.k));
    const auto x = Rounded(Normal(c.rows * c.k), c.x), w = Rounded(Normal(c.n * c.k), c.weight), b = Normal(c.n);
    std::vector<std::byte> host(w.size() * static_cast<size_t>(kernels::DtypeBytes(c.weight)));
    for (size_t i = 0; i < w.size(); ++i) {
      const uint16_t code = kernels::FloatToBf16(w[i]);
      if (c.weight == f32)
        std::memcpy(&host[4 * i], &w[i], 4);
      else
        std::memcpy(&host[2 * i], &code, 2);
    }
    const auto packed =
        backend_->PackWeights(kernels::Tensor::Dense(host.data(), c.weight, kernels::Device{}, {c.n, c.k}));
    ASSERT_TRUE(packed.ok()) << packed.status();
    host.assign(host.size(), std::byte{0xff});  // free to go afterwards
    const int64_t columns = c.epilogue == Epilogue::kSiluMul ? c.n / 2 : c.n;
    const auto x_tensor = Make(c.x, {c.rows, c.k}, x, 32), bias = Make(f32, {c.n}, b);
    const auto out = Empty(c.out, {c.rows, columns}, 16);
    const DeviceWorkspace workspace(backend_.get(), backend_->LinearWorkspaceBytes(c.rows, **packed, c.epilogue));
    Done(backend_->Linear(
        *stream_, {x_tensor, packed->get(), c.bias ? bias.view() : kernels::Tensor{}, c.epilogue, out, workspace}));
    // y and a bound of its error: products accumulate in f32; a bf16 backend also rounds x and w once each, by 2^-8
    // relative.
    const double per_product =
        static_cast<double>(c.k + 8) * 0x1p-24 + (backend_->compute_dtype() == bf16 ? 0x1p-7 : 0);
    std::vector<double> y(static_cast<size_t>(c.rows * c.n)), error(y.size());
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t j = 0; j < c.n; ++j) {
        double sum = c.bias ? static_cast<double>(b[j]) : 0, size = std::fabs(sum);
        for (int64_t i = 0; i < c.k; ++i) {
          const double product = static_cast<double>(x[r * c.k + i]) * static_cast<double>(w[j * c.k + i]);
          sum += product, size += std::fabs(product);
        }
        y[r * c.n + j] = sum, error[r * c.n + j] = size * per_product;
      }
    }
    std::vector<double> expected, tolerance;
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t j = 0; j < columns; ++j) {
        const size_t at = static_cast<size_t>(r * c.n + j);
        double value = y[at], bound = error[at];
        if (c.epilogue == Epilogue::kSiluMul) {
          const double gate = value / (1 + std::exp(-value)), up = y[at + static_cast<size_t>(columns)];
          bound = 1.1 * bound * std::fabs(up) +
                  (std::fabs(gate) + 1.1 * bound) * error[at + static_cast<size_t>(columns)] +
                  1e-6 * std::fabs(gate * up);
          value = gate * up;
        }
        expected.push_back(value);
        tolerance.push_back(bound + 1e-6 + (c.out == bf16 ? kBf16Ulp * std::fabs(value) : 0));
      }
    }
    ExpectWithin(out.Floats(), expected, tolerance, "out");
    EXPECT_TRUE(out.GapsIntact());
  }
}

struct QkvCase {
  int64_t heads, kv_heads, dim, rotary_dim;
  bool bias, norm;
  Dtype in, pages, q_out;
};

TEST_P(RowsTest, QkvFinishRotatesAndAppends) {
  const Dtype f32 = Dtype::kF32, bf16 = Dtype::kBf16;
  for (const QkvCase& c : std::vector<QkvCase>{{9, 3, 64, 64, false, false, f32, f32, f32},
                                               {8, 1, 80, 40, true, false, f32, f32, f32},
                                               {4, 4, 128, 128, false, true, bf16, bf16, bf16},
                                               {6, 2, 96, 96, true, true, f32, bf16, f32}}) {
    SCOPED_TRACE(absl::StrCat(c.heads, " heads of ", c.dim));
    constexpr int64_t kRows = 7, kPages = 3;
    const int64_t width = (c.heads + 2 * c.kv_heads) * c.dim;
    const kernels::Rope rope = kernels::MakeRope({.type = kernels::RopeConfig::Type::kYarn,
                                                  .theta = 10000,
                                                  .rotary_dim = c.rotary_dim,
                                                  .factor = 4,
                                                  .original_context = 4096})
                                   .value();
    const auto x = Rounded(Normal(kRows * width), c.in), bias = Normal(width), q_norm = Normal(c.dim),
               k_norm = Normal(c.dim);
    const std::vector<int64_t> positions = {0, 1, 5, 131071, 99999, 64, 4095}, slots = {191, 0, 63, 64, 65, 130, 1};
    const auto qkv = Make(c.in, {kRows, width}, x, 8), bias_tensor = Make(f32, {width}, bias);
    const auto q_norm_tensor = Make(f32, {c.dim}, q_norm), k_norm_tensor = Make(f32, {c.dim}, k_norm);
    const auto pages = Empty(c.pages, {kPages, c.kv_heads, 128, c.dim}, 64);
    const auto q_out = Empty(c.q_out, {kRows, c.heads, c.dim}, 8);
    kernels::QkvFinishArgs args;
    args.params = {.heads = c.heads, .kv_heads = c.kv_heads, .head_dim = c.dim};
    args.qkv = qkv;
    if (c.bias) args.bias = bias_tensor;
    if (c.norm) args.q_norm = q_norm_tensor, args.k_norm = k_norm_tensor;
    args.norm_eps = 1e-6f;
    args.rope = &rope;
    const auto position_tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, positions);
    const auto slot_tensor = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, slots);
    args.positions = position_tensor, args.slots = slot_tensor, args.pages = pages, args.q_out = q_out;
    Done(backend_->QkvFinish(*stream_, args));

    const auto head_of = [&](int64_t row, int64_t head, const std::vector<float>* norm) {
      std::vector<double> values(static_cast<size_t>(c.dim));
      double squares = 0;
      for (int64_t d = 0; d < c.dim; ++d) {
        values[d] = static_cast<double>(x[row * width + head * c.dim + d]) +
                    (c.bias ? static_cast<double>(bias[head * c.dim + d]) : 0);
        squares += values[d] * values[d];
      }
      if (norm != nullptr && c.norm) {
        for (int64_t d = 0; d < c.dim; ++d)
          values[d] *= static_cast<double>((*norm)[d]) / std::sqrt(squares / static_cast<double>(c.dim) + 1e-6);
      }
      return values;
    };
    std::vector<double> expected_q;
    std::vector<float> written;  // keys, then values, row by row
    std::vector<double> expected_kv;
    const auto page_values = pages.Floats();
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t head = 0; head < c.heads; ++head) {
        const auto q = head_of(row, head, &q_norm);
        expected_q.insert(expected_q.end(), q.begin(), q.end());
      }
      for (int64_t g = 0; g < c.kv_heads; ++g) {
        auto k = head_of(row, c.heads + g, &k_norm);
        const int64_t half = c.rotary_dim / 2;
        for (int64_t i = 0; i < half; ++i) {
          const double angle = static_cast<double>(positions[row]) * rope.inv_freq[i], a = k[i], b = k[i + half];
          k[i] = rope.attention_factor * (a * std::cos(angle) - b * std::sin(angle));
          k[i + half] = rope.attention_factor * (a * std::sin(angle) + b * std::cos(angle));
        }
        const auto v = head_of(row, c.heads + c.kv_heads + g, nullptr);
        expected_kv.insert(expected_kv.end(), k.begin(), k.end());
        expected_kv.insert(expected_kv.end(), v.begin(), v.end());
        for (int64_t which : {0, 1}) {
          const int64_t at = ((slots[row] / 64 * c.kv_heads + g) * 128 + which * 64 + slots[row] % 64) * c.dim;
          written.insert(written.end(), page_values.begin() + at, page_values.begin() + at + c.dim);
        }
      }
    }
    ExpectClose(q_out.Floats(), expected_q, 1e-5, c.q_out == f32 ? 1e-5 : kBf16Ulp, "q_out");
    ExpectClose(written, expected_kv, 1e-5, c.pages == f32 ? 1e-5 : kBf16Ulp, "pages");
    int64_t untouched = 0;
    for (float value : page_values) untouched += std::isnan(value) ? 1 : 0;
    EXPECT_EQ(untouched, static_cast<int64_t>(page_values.size() - written.size()));
    EXPECT_TRUE(pages.GapsIntact() && q_out.GapsIntact());
  }
}

TEST_P(RowsTest, QkvFinishReportsSlotsOutOfRange) {
  const kernels::Rope rope = kernels::MakeRope({.rotary_dim = 64}).value();
  const auto qkv = Make(Dtype::kF32, {2, 3 * 64}, Normal(2 * 3 * 64));
  const auto positions = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{0, 1});
  for (int64_t slot : {int64_t{-1}, int64_t{64}, int64_t{1} << 60, -(int64_t{1} << 60)}) {
    const auto slots = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{3, slot});
    const auto pages = Empty(Dtype::kF32, {1, 1, 128, 64}), q_out = Empty(Dtype::kF32, {2, 1, 64});
    kernels::QkvFinishArgs args;
    args.params = {.heads = 1, .kv_heads = 1, .head_dim = 64};
    args.qkv = qkv, args.rope = &rope, args.positions = positions, args.slots = slots, args.pages = pages,
    args.q_out = q_out;
    ASSERT_TRUE(backend_->QkvFinish(*stream_, args).ok());
    EXPECT_EQ(stream_->Synchronize().code(), absl::StatusCode::kInternal) << slot;
  }
}

#ifdef KVLINK_TEST_BF16
// What multiplies bf16 where the backend cpu_bf16 has something faster.
std::vector<BackendFactory> SlowerBf16() {
  const auto make = [](kernels::cpu::MultiplyPairs pairs) {
    return kernels::cpu::MakeBackend(kernels::cpu::Threads(2), {.bf16 = true, .pairs = pairs});
  };
  return {{"cpu_emulated_pairs", [=] { return make(kernels::cpu::EmulatedMultiplyPairs); }},
          {"cpu_without_pairs", [=] { return make(nullptr); }}};
}
INSTANTIATE_TEST_SUITE_P(SlowerBf16, RowsTest, ::testing::ValuesIn(SlowerBf16()),
                         [](const auto& info) { return info.param.name; });
#endif

INSTANTIATE_TEST_SUITE_P(Backends, RowsTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
