// The mass of keys on every backend, over the random shapes of linked attention: each token receives what it has of the
// rows' attention in one attention under the segment mask.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "tests/kernels/linked_case.h"
#include "tests/support/backends.h"
#include "tests/support/seed.h"
#ifdef KVLINK_TEST_BF16
#include "kernels/cpu/backend.h"
#include "kernels/cpu/bf16/amx.h"
#endif

namespace kvlink::testing {
namespace {

using kernels::Dtype;

std::vector<size_t> All(const CaseShape& shape) {
  std::vector<size_t> requests(shape.requests.size());
  for (size_t i = 0; i < requests.size(); ++i) requests[i] = i;
  return requests;
}

// The rows of a batch of all requests that belong to one of them.
LinkedCase::MassRows RowsOf(const CaseShape& shape, size_t request) {
  LinkedCase::MassRows rows;
  for (size_t r = 0; r < request; ++r) rows.begin += static_cast<int64_t>(shape.requests[r].rows.size());
  rows.count = static_cast<int64_t>(shape.requests[request].rows.size());
  return rows;
}

// A read of a batch of all requests, in the batch's order: tokens [begin, begin + count) of the request's oracle.
struct Slice {
  size_t segment, request, begin, count;
};
std::vector<Slice> Reads(const CaseShape& shape) {
  std::vector<Slice> reads;
  for (size_t r = 0; r < shape.requests.size(); ++r) {
    size_t begin = 0;
    const auto add = [&](size_t segment, size_t count) {
      reads.push_back({segment, r, begin, count});
      begin += count;
    };
    for (const Placement& placement : shape.requests[r].placements) {
      const auto document = static_cast<size_t>(placement.document);
      add(document, static_cast<size_t>(shape.documents[document]));
    }
    add(shape.documents.size() + r, shape.requests[r].fresh.size());
  }
  std::stable_sort(reads.begin(), reads.end(), [](const auto& a, const auto& b) { return a.segment < b.segment; });
  return reads;
}

class KeyMassTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override { backend_ = GetParam().make(); }

  // exp(score - lse) is off relatively by as much as its exponent is off absolutely, which is bounded as in
  // linked_attention_test.cc. f32 loses another 1e-7 of what was there before.
  double Relative() const { return backend_->compute_dtype() == Dtype::kBf16 ? 4e-2 : 1e-4; }

  void ExpectExact(const CaseShape& shape, const LinkedCase::MassRows& mass) {
    SCOPED_TRACE(shape.Text());
    LinkedCase linked(backend_.get(), shape);
    const LinkedCase::Answer answer = linked.Run(All(shape), &mass);
    std::vector<kernels::MaskedAttentionResult> oracles;
    for (size_t r = 0; r < shape.requests.size(); ++r) oracles.push_back(linked.Oracle(r));
    std::vector<double> expected;
    for (const Slice& read : Reads(shape)) {
      const LinkedCase::MassRows rows = RowsOf(shape, read.request);
      const std::vector<double>& all = oracles[read.request].mass;
      const size_t tokens = all.size() / static_cast<size_t>(rows.count);
      for (size_t t = read.begin; t < read.begin + read.count; ++t) {
        double sum = static_cast<double>(mass.before);
        for (int64_t row = 0; row < rows.count; ++row) {
          const int64_t in_batch = rows.begin + row - mass.begin;
          if (in_batch >= 0 && in_batch < mass.count) sum += all[static_cast<size_t>(row) * tokens + t];
        }
        expected.push_back(sum);
      }
    }
    ExpectClose(answer.mass, expected, 1e-6, Relative(), "mass");
  }

  std::unique_ptr<kernels::Backend> backend_;
};

// A random shape that is not too slow; one in two with many rows.
CaseShape Shape(uint64_t* seed) {
  for (;; ++*seed) {
    CaseShape shape = RandomShape(*seed);
    if (*seed % 2 == 1) shape = WithManyRows(std::move(shape));
    if (Work(shape) > 5e7) continue;
    std::mt19937_64 random(*seed);
    shape.codec = std::vector{Codec::kRawF32, Codec::kRawBf16, Codec::kQ8}[random() % 3];
    shape.activations = random() % 2 == 0 ? Dtype::kBf16 : Dtype::kF32;
    ++*seed;
    return shape;
  }
}

TEST_P(KeyMassTest, EqualsOneMaskedAttention) {
  uint64_t seed = TestSeed() + 5000000;
  for (uint64_t i = 0; i < Cases(6) && !HasFailure(); ++i) {
    const CaseShape shape = Shape(&seed);
    std::mt19937_64 random(seed);
    const LinkedCase::MassRows last = RowsOf(shape, shape.requests.size() - 1);
    LinkedCase::MassRows rows{0, last.begin + last.count, static_cast<float>(i % 3)};
    if (i % 2 == 0) {
      rows.begin = static_cast<int64_t>(random() % static_cast<uint64_t>(rows.count));
      rows.count = static_cast<int64_t>(random() % static_cast<uint64_t>(rows.count - rows.begin + 1));
    }
    ExpectExact(shape, rows);
  }
}

// Head dimensions that vector and tensor units like, and others; more heads of one key than any tile has rows.
TEST_P(KeyMassTest, DimensionsAndGroupsOfAllKinds) {
  struct Kind {
    int64_t heads, kv_heads, dim;
  };
  for (const Kind& kind : {Kind{6, 2, 16}, Kind{7, 1, 96}, Kind{2, 1, 256}, Kind{3, 3, 34}, Kind{144, 2, 64}}) {
    CaseShape shape;
    shape.params = {.heads = kind.heads, .kv_heads = kind.kv_heads, .head_dim = kind.dim};
    shape.params.scale = 1 / std::sqrt(static_cast<float>(kind.dim));
    shape.rope = {.rotary_dim = kind.dim};
    shape.seed = TestSeed();
    shape.documents = {70, 33};
    shape.requests = {{.placements = {{0, 2, {}}, {1, 72, {}}}, .fresh = {0, 1, 105, 106}, .rows = {1, 2, 3}}};
    for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8}) {
      shape.codec = codec;
      shape.activations = codec == Codec::kRawF32 ? Dtype::kF32 : Dtype::kBf16;
      ExpectExact(shape, {0, 3});
    }
  }
}

// Bit by bit.
TEST_P(KeyMassTest, DoesNotDependOnTheBatch) {
  uint64_t seed = TestSeed() + 6000000;
  for (uint64_t compared = 0; compared < Cases(4);) {
    const CaseShape shape = Shape(&seed);
    if (shape.requests.size() < 2) continue;
    ++compared;
    SCOPED_TRACE(shape.Text());
    LinkedCase linked(backend_.get(), shape);
    for (size_t r = 0; r < shape.requests.size(); ++r) {
      const LinkedCase::MassRows rows = RowsOf(shape, r), own{0, rows.count};
      const std::vector<float> together = linked.Run(All(shape), &rows).mass, alone = linked.Run({r}, &own).mass;
      std::vector<float> ours;
      size_t at = 0;
      for (const Slice& read : Reads(shape)) {
        const auto begin = together.begin() + static_cast<int64_t>(at), end = begin + static_cast<int64_t>(read.count);
        if (read.request == r) {
          ours.insert(ours.end(), begin, end);
        } else {
          EXPECT_TRUE(std::all_of(begin, end, [](float v) { return v == 0; }));
        }
        at += read.count;
      }
      EXPECT_EQ(ours, alone);
    }
  }
}

// Row 0 sees nothing, and reads only a document ahead of it.
TEST_P(KeyMassTest, ARowThatSeesNothingGivesNothing) {
  const kernels::AttentionParams params{.heads = 4, .kv_heads = 2, .head_dim = 64, .scale = 0.125f};
  const kernels::Rope rope = kernels::MakeRope({.rotary_dim = 64}).value();
  const kernels::Rope* ropes[] = {&rope};
  const SlabShape slab{Codec::kRawF32, 2, 64, 5};
  const auto data =
      DeviceTensor::Of(backend_.get(), Dtype::kF32, {2 * 2 * 5 * 64}, std::vector<float>(2 * 2 * 5 * 64, 0.5f));
  const std::byte* layers[] = {data.data()};
  const std::vector<kernels::KvSegment> segments = {{.codec = Codec::kRawF32,
                                                     .layer_data = layers,
                                                     .head_stride = slab.head_bytes(),
                                                     .block_stride = slab.block_stride(),
                                                     .tokens = 5},
                                                    {.codec = Codec::kRawBf16}};
  const std::vector<int64_t> positions = {50};
  const std::vector<kernels::KvRead> reads = {{0, 0, 1, 51, nullptr}, {1, 0, 1, 0, nullptr}};
  const auto plan = backend_->Plan({positions, segments, reads, ropes}, nullptr);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto q = DeviceTensor::Of(backend_.get(), Dtype::kF32, {1, 4, 64}, std::vector<float>(4 * 64, 1.0f));
  const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {1, 4 * 64});
  const auto lse = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {1, 4});
  const auto mass = DeviceTensor::Of(backend_.get(), Dtype::kF32, {5}, {1, 2, 3, 4, 5});
  const DeviceWorkspace workspace(backend_.get(), backend_->AttentionWorkspaceBytes(**plan, params));
  auto stream = backend_->NewStream();
  ASSERT_TRUE(backend_->LinkedAttention(*stream, {plan->get(), 0, params, q, out, lse, workspace}).ok());
  ASSERT_TRUE(backend_->KeyMass(*stream, {plan->get(), 0, params, q, lse, 0, 1, mass, workspace}).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  EXPECT_EQ(mass.Floats(), (std::vector<float>{1, 2, 3, 4, 5}));
  // No rows at all.
  const auto empty = backend_->Plan({{}, segments, {}, ropes}, nullptr);
  ASSERT_TRUE(empty.ok()) << empty.status();
  const auto no_q = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {0, 4, 64}),
             no_lse = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {0, 4}),
             nothing = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {0});
  EXPECT_TRUE(backend_->KeyMass(*stream, {empty->get(), 0, params, no_q, no_lse, 0, 0, nothing, {}}).ok());
}

#ifdef KVLINK_TEST_BF16
std::unique_ptr<kernels::Backend> MakeCpu(int threads, bool tiles) {
  return kernels::cpu::MakeBackend(kernels::cpu::Threads(threads),
                                   {.bf16 = tiles, .tiles = tiles ? kernels::cpu::EmulatedAmxMultiply : nullptr});
}

// Bit by bit.
TEST(KeyMassThreadsTest, TheNumberOfThreadsChangesNothing) {
  uint64_t seed = TestSeed() + 7000000;
  const auto one = MakeCpu(1, false), five = MakeCpu(5, false);
  for (int i = 0; i < 6; ++i) {
    const CaseShape shape = Shape(&seed);
    SCOPED_TRACE(shape.Text());
    const LinkedCase::MassRows rows = RowsOf(shape, 0);
    const LinkedCase::Answer expected = LinkedCase(one.get(), shape).Run({0}, &rows);
    EXPECT_EQ(LinkedCase(five.get(), shape).Run({0}, &rows).mass, expected.mass);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiles, KeyMassTest,
                         ::testing::Values(BackendFactory{"cpu_emulated_tiles", [] { return MakeCpu(2, true); }}),
                         [](const auto& info) { return info.param.name; });
#endif

INSTANTIATE_TEST_SUITE_P(Backends, KeyMassTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
