// Exactness of linked attention on every backend, as a property over random shapes: reading each document where it was
// encoded alone, with shifted queries and merged partial results, equals one attention under the segment mask.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "tests/kernels/linked_case.h"
#include "tests/support/backends.h"
#include "tests/support/seed.h"
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif
#ifdef KVLINK_TEST_BF16
#include "absl/types/span.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/bf16/amx.h"
#endif

namespace kvlink::testing {
namespace {

using kernels::Dtype;

class LinkedAttentionTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override { backend_ = GetParam().make(); }

  // The issue asks 1e-3 of f32; rounding gives about 1e-6. A backend that computes in bf16 rounds the rotated query and
  // the weights to 2^-8 relative each: scores of a few units move by some 1e-2, and so do averages of unit-normal
  // values.
  double Absolute() const { return backend_->compute_dtype() == Dtype::kBf16 ? 4e-2 : 1e-4; }
  // bf16 outputs are rounded once more; a tiny difference may turn the rounding: one step, 2^-7 relative.
  static double Relative(const CaseShape& shape) { return shape.activations == Dtype::kBf16 ? 1.0 / 128 : 0; }

  static std::vector<size_t> All(const CaseShape& shape) {
    std::vector<size_t> requests(shape.requests.size());
    for (size_t i = 0; i < requests.size(); ++i) requests[i] = i;
    return requests;
  }

  void ExpectExact(const CaseShape& shape) {
    SCOPED_TRACE(shape.Text());
    LinkedCase linked(backend_.get(), shape);
    const LinkedCase::Answer answer = linked.Run(All(shape));
    kernels::MaskedAttentionResult expected;
    for (size_t r = 0; r < shape.requests.size(); ++r) {
      const auto one = linked.Oracle(r);
      expected.out.insert(expected.out.end(), one.out.begin(), one.out.end());
      expected.lse.insert(expected.lse.end(), one.lse.begin(), one.lse.end());
    }
    ExpectClose(answer.out, expected.out, Absolute(), Relative(shape), "out");
    ExpectClose(answer.lse, expected.lse, Absolute(), 1e-6, "lse");
    ExpectSmallOnAverage(answer.out, expected.out);
  }

  // The roundings to bf16 that Absolute() allows for, and that of a bf16 output, are independent: their root mean
  // square is about 2^-8 / sqrt(3) each, 4e-3 of the answer's at most together (measured), twice that allowed.
  static void ExpectSmallOnAverage(const std::vector<float>& actual, const std::vector<double>& expected) {
    double error = 0, all = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      error += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
      all += std::pow(expected[i], 2);
    }
    EXPECT_LE(std::sqrt(error), std::sqrt(all) / 128);
  }

  void ExpectExactInRawCodecs(CaseShape shape) {
    for (Codec codec : {Codec::kRawF32, Codec::kRawBf16}) {
      shape.codec = codec;
      ExpectExact(shape);
    }
  }

  std::unique_ptr<kernels::Backend> backend_;
};

TEST_P(LinkedAttentionTest, EqualsOneMaskedAttention) {
  for (uint64_t i = 0; i < Cases(18) && !HasFailure(); ++i) ExpectExact(RandomShape(TestSeed() + i));
}

TEST_P(LinkedAttentionTest, ReadsOtherCodecsInPlace) {
  for (uint64_t i = 0; i < Cases(10) && !HasFailure(); ++i) {
    CaseShape shape = RandomShape(TestSeed() + 1000000 + i);
    shape.codec = i % 2 == 0 ? Codec::kRawBf16 : Codec::kQ8;
    shape.activations = i % 4 < 2 ? Dtype::kBf16 : Dtype::kF32;
    ExpectExact(shape);
  }
}

TEST_P(LinkedAttentionTest, EqualsTheMaterialisedShift) {
  for (uint64_t i = 0; i < Cases(6) && !HasFailure(); ++i) {
    const CaseShape shape = RandomShape(TestSeed() + 2000000 + i);
    SCOPED_TRACE(shape.Text());
    LinkedCase linked(backend_.get(), shape);
    const LinkedCase::Answer answer = linked.Run({0}), materialised = linked.RunMaterialised(0);
    ExpectClose(answer.out, {materialised.out.begin(), materialised.out.end()}, Absolute(), 0, "out");
    ExpectClose(answer.lse, {materialised.lse.begin(), materialised.lse.end()}, Absolute(), 1e-6, "lse");
  }
}

// Many rows of a request at once, as in a prefill: tiles of many rows, streamed through the segments.
TEST_P(LinkedAttentionTest, ManyRows) {
  uint64_t compared = 0;
  for (uint64_t i = 0; compared < Cases(6) && !HasFailure(); ++i) {
    CaseShape shape = WithManyRows(RandomShape(TestSeed() + 4000000 + i));
    if (Work(shape) > 2e8) continue;
    shape.codec = compared % 4 == 3 ? Codec::kRawF32 : Codec::kRawBf16;
    shape.activations = compared % 2 == 0 ? Dtype::kBf16 : Dtype::kF32;
    ++compared;
    ExpectExact(shape);
  }
}

// Bit by bit: splits have a fixed size, so nothing depends on who else is in the batch.
TEST_P(LinkedAttentionTest, ARequestDoesNotDependOnTheBatch) {
  int compared = 0;
  for (uint64_t i = 0; compared < 8; ++i) {
    CaseShape shape = RandomShape(TestSeed() + 3000000 + i);
    if (shape.requests.size() < 2) continue;
    if (compared % 4 >= 2) shape.codec = Codec::kRawBf16, shape.activations = Dtype::kBf16;
    if (compared % 4 == 3) shape = WithManyRows(std::move(shape));
    if (Work(shape) > 2e8) continue;
    ++compared;
    SCOPED_TRACE(shape.Text());
    LinkedCase linked(backend_.get(), shape);
    const LinkedCase::Answer together = linked.Run(All(shape));
    size_t out = 0, lse = 0;
    for (size_t r = 0; r < shape.requests.size(); ++r) {
      const LinkedCase::Answer alone = linked.Run({r});
      EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(), together.out.begin() + static_cast<int64_t>(out)));
      EXPECT_TRUE(std::equal(alone.lse.begin(), alone.lse.end(), together.lse.begin() + static_cast<int64_t>(lse)));
      out += alone.out.size(), lse += alone.lse.size();
    }
  }
}

CaseShape SmallShape() {
  CaseShape shape;
  shape.params = {.heads = 4, .kv_heads = 2, .head_dim = 64, .scale = 0.125f};
  shape.rope = {.theta = 10000, .rotary_dim = 64};
  shape.seed = TestSeed();
  return shape;
}

TEST_P(LinkedAttentionTest, AFullyHiddenDocumentChangesNothing) {
  CaseShape shape = SmallShape();
  shape.documents = {70, 33};
  shape.requests = {
      {.placements = {{0, 0, {}}, {1, 70, std::vector<bool>(33, true)}}, .fresh = {103, 104}, .rows = {0, 1}},
      {.placements = {{0, 0, {}}}, .fresh = {103, 104}, .rows = {0, 1}}};
  ExpectExactInRawCodecs(shape);
}

// A document that starts behind a row, one the window has left behind, one whose last token alone is in the window.
TEST_P(LinkedAttentionTest, DocumentsOutOfSight) {
  CaseShape shape = SmallShape();
  shape.params.window = 10;
  shape.documents = {200, 64, 65, 300};
  shape.requests = {{.placements = {{0, 0, {}}, {1, 200, {}}, {2, 270, {}}, {3, 400, {}}},
                     .fresh = {265, 335, 344, 399},
                     .rows = {0, 1, 2, 3}}};
  ExpectExactInRawCodecs(shape);
}

TEST_P(LinkedAttentionTest, TheSameDocumentTwiceInOneRequest) {
  CaseShape shape = SmallShape();
  shape.documents = {90};
  shape.requests = {{.placements = {{0, 3, {}}, {0, 95, {}}}, .fresh = {0, 1, 2, 93, 94, 185}, .rows = {2, 3, 5}}};
  ExpectExactInRawCodecs(shape);
}

// Head dimensions that vector and tensor units like, and others; more heads of one key than any tile has rows.
TEST_P(LinkedAttentionTest, DimensionsAndGroupsOfAllKinds) {
  struct Kind {
    int64_t heads, kv_heads, dim;
  };
  for (const Kind& kind : {Kind{6, 2, 16}, Kind{7, 1, 96}, Kind{2, 1, 256}, Kind{3, 3, 34}, Kind{144, 2, 64}}) {
    CaseShape shape = SmallShape();
    shape.params.heads = kind.heads, shape.params.kv_heads = kind.kv_heads, shape.params.head_dim = kind.dim;
    shape.params.scale = 1 / std::sqrt(static_cast<float>(kind.dim));
    shape.rope.rotary_dim = kind.dim;
    shape.documents = {70, 33};
    shape.requests = {{.placements = {{0, 2, {}}, {1, 72, {}}}, .fresh = {0, 1, 105, 106}, .rows = {1, 2, 3}}};
    for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8}) {
      shape.codec = codec;
      shape.activations = codec == Codec::kRawF32 ? Dtype::kF32 : Dtype::kBf16;
      ExpectExact(shape);
    }
  }
}

// More rows than any backend keeps partial results of, among them rows that see half of a document.
TEST_P(LinkedAttentionTest, APrefillOfHundredsOfRows) {
  CaseShape shape = SmallShape();
  shape.params.window = 100;  // tiles of later rows see nothing of the documents
  shape.documents = {300, 70};
  Request request{.placements = {{0, 1, {}}, {1, 301, std::vector<bool>(70, false)}}};
  request.placements[1].hidden[5] = request.placements[1].hidden[66] = true;
  request.fresh = {0, 100, 306};
  for (int64_t position = 371; position < 571; ++position) request.fresh.push_back(position);
  for (size_t row = 0; row < request.fresh.size(); ++row) request.rows.push_back(static_cast<int64_t>(row));
  shape.requests = {request};
  for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8}) {
    shape.codec = codec;
    shape.activations = codec == Codec::kRawF32 ? Dtype::kF32 : Dtype::kBf16;
    ExpectExact(shape);
  }
}

// 4 bytes of alignment are all that the interface asks of keys.
TEST_P(LinkedAttentionTest, KeysMayLieAtAnyFourthByte) {
  const kernels::AttentionParams params{.heads = 4, .kv_heads = 2, .head_dim = 64, .scale = 0.125f};
  const kernels::Rope rope = kernels::MakeRope({.rotary_dim = 64}).value();
  const kernels::Rope* ropes[] = {&rope};
  const std::vector<int64_t> positions = {90, 91};
  const std::vector<kernels::KvRead> reads = {{0, 0, 2, 20, nullptr}};
  const auto q = DeviceTensor::Of(backend_.get(), Dtype::kF32, {2, 4, 64}, std::vector<float>(2 * 4 * 64, 0.25f));
  for (Codec codec : {Codec::kRawF32, Codec::kRawBf16, Codec::kQ8}) {
    const SlabShape slab{codec, 2, 64, 70};
    std::vector<std::vector<float>> answers;
    for (size_t shift : {size_t{0}, size_t{4}, size_t{8}}) {
      // Bytes below 0x40 are small positive numbers in every codec, and as scales.
      std::vector<uint8_t> bytes(static_cast<size_t>(slab.used_bytes()) + shift);
      for (size_t i = shift; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(((i - shift) * 37) % 64);
      const auto data = DeviceTensor::OfInts(backend_.get(), Dtype::kU8, bytes);
      const std::byte* layers[] = {data.data() + shift};
      const std::vector<kernels::KvSegment> segments = {{.codec = codec,
                                                         .layer_data = layers,
                                                         .head_stride = slab.head_bytes(),
                                                         .block_stride = slab.block_stride(),
                                                         .tokens = 70}};
      const auto plan = backend_->Plan({positions, segments, reads, ropes}, nullptr);
      ASSERT_TRUE(plan.ok()) << plan.status();
      const auto out = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {2, 4 * 64});
      const DeviceWorkspace workspace(backend_.get(), backend_->AttentionWorkspaceBytes(**plan, params));
      auto stream = backend_->NewStream();
      ASSERT_TRUE(backend_->LinkedAttention(*stream, {plan->get(), 0, params, q, out, {}, workspace}).ok());
      ASSERT_TRUE(stream->Synchronize().ok());
      answers.push_back(out.Floats());
    }
    EXPECT_EQ(answers[1], answers[0]) << CodecName(codec);
    EXPECT_EQ(answers[2], answers[0]) << CodecName(codec);
    EXPECT_FALSE(std::isnan(answers[0][0])) << CodecName(codec);
  }
}

TEST_P(LinkedAttentionTest, RowsThatSeeNothingAndEmptySegments) {
  const kernels::AttentionParams params{.heads = 4, .kv_heads = 2, .head_dim = 64, .scale = 0.125f};
  const kernels::Rope rope = kernels::MakeRope({.rotary_dim = 64}).value();
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
  const uint64_t hidden = 0x1f;
  // Row 0 reads nothing; row 1 a document ahead of it; row 2 a hidden one; row 3 an empty one; row 4 the document.
  const std::vector<int64_t> positions = {50, 50, 50, 50, 50};
  const std::vector<kernels::KvRead> reads = {
      {0, 1, 1, 51, nullptr}, {0, 2, 1, 0, &hidden}, {0, 4, 1, 0, nullptr}, {1, 3, 1, 0, nullptr}};
  const kernels::Rope* ropes[] = {&rope};
  auto plan = backend_->Plan({positions, segments, reads, ropes}, nullptr);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto q = DeviceTensor::Of(backend_.get(), Dtype::kF32, {5, 4, 64}, std::vector<float>(5 * 4 * 64, 1.0f));
  const DeviceWorkspace workspace(backend_.get(), backend_->AttentionWorkspaceBytes(**plan, params));
  for (Dtype dtype : {Dtype::kF32, Dtype::kBf16}) {
    const auto out = DeviceTensor::Poisoned(backend_.get(), dtype, {5, 4 * 64});
    const auto lse = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {5, 4});
    auto stream = backend_->NewStream();
    ASSERT_TRUE(backend_->LinkedAttention(*stream, {plan->get(), 0, params, q, out, lse, workspace}).ok());
    ASSERT_TRUE(stream->Synchronize().ok());
    std::vector<double> expected(4 * 4 * 64, 0.0), expected_lse(4 * 4, -INFINITY);
    expected.resize(5 * 4 * 64, 0.5);
    ExpectClose(out.Floats(), expected, 1e-6, 0, "out");
    auto sums = lse.Floats();
    EXPECT_TRUE(std::all_of(sums.begin() + 16, sums.end(), [](float v) { return std::isfinite(v); }));
    sums.resize(16);
    ExpectClose(sums, expected_lse, 0, 0, "lse");
    // Without lse, and with the plan of an earlier batch to reuse.
    ASSERT_TRUE(backend_->LinkedAttention(*stream, {plan->get(), 0, params, q, out, {}, workspace}).ok());
    ASSERT_TRUE(stream->Synchronize().ok());
    plan = backend_->Plan({positions, segments, reads, ropes}, *std::move(plan));
    ASSERT_TRUE(plan.ok()) << plan.status();
  }
  // No rows at all.
  auto empty = backend_->Plan({{}, segments, {}, ropes}, nullptr);
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ((*empty)->rows(), 0);
  const auto none = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {0, 4, 64}),
             no_out = DeviceTensor::Poisoned(backend_.get(), Dtype::kF32, {0, 256});
  auto stream = backend_->NewStream();
  EXPECT_TRUE(backend_->LinkedAttention(*stream, {empty->get(), 0, params, none, no_out, {}, {}}).ok());
}

#ifdef KVLINK_TEST_BF16
// The tiles of bf16 segments where nothing multiplies them; elsewhere the backend cpu_bf16 has the real ones.
std::atomic<int64_t> emulated_calls{0};
std::unique_ptr<kernels::Backend> MakeEmulatedTiles() {
  const kernels::cpu::Threads threads(kernels::cpu::Threads::Available());
  const auto multiply = [](absl::Span<const kernels::cpu::TileProduct> products) {
    ++emulated_calls;
    kernels::cpu::EmulatedAmxMultiply(products);
  };
  return kernels::cpu::MakeBackend(threads, {.bf16 = true, .tiles = multiply});
}

// Several rows of bf16 segments go through tiles, and nothing else does.
TEST(TilesTest, AreForBf16Segments) {
  const auto backend = MakeEmulatedTiles();
  const auto calls = [&](Codec codec, Dtype activations, int64_t rows) {
    CaseShape shape = SmallShape();
    shape.codec = codec;
    shape.activations = activations;
    shape.documents = {70};
    Request request{.placements = {{0, 0, {}}}};
    for (int64_t row = 0; row < rows; ++row) request.fresh.push_back(70 + row), request.rows.push_back(row);
    shape.requests = {request};
    emulated_calls = 0;
    LinkedCase(backend.get(), shape).Run({0});
    return emulated_calls.load();
  };
  for (int64_t rows : {2, 17}) {
    EXPECT_GT(calls(Codec::kRawBf16, Dtype::kF32, rows), 0);
    EXPECT_GT(calls(Codec::kRawF32, Dtype::kBf16, rows), 0);  // its private KV
    EXPECT_EQ(calls(Codec::kRawF32, Dtype::kF32, rows), 0);
    EXPECT_EQ(calls(Codec::kQ8, Dtype::kF32, rows), 0);
  }
  EXPECT_EQ(calls(Codec::kRawBf16, Dtype::kBf16, 1), 0);
}

#ifdef __linux__
// Tiles are 16 tokens high, but what lies behind the last token of a segment may not be ours to read.
TEST(TilesTest, NothingIsReadBehindASegment) {
  const auto backend = MakeEmulatedTiles();
  const int64_t page = sysconf(_SC_PAGESIZE);
  void* memory =
      mmap(nullptr, static_cast<size_t>(2 * page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::byte* guard = static_cast<std::byte*>(memory) + page;
  ASSERT_EQ(mprotect(guard, static_cast<size_t>(page), PROT_NONE), 0);
  const kernels::Rope rope = kernels::MakeRope({.rotary_dim = 64}).value();
  const kernels::Rope* ropes[] = {&rope};
  const kernels::AttentionParams params{.heads = 1, .kv_heads = 1, .head_dim = 64, .scale = 0.125f};
  for (int64_t tokens : {1, 5, 15}) {
    const SlabShape slab{Codec::kRawBf16, 1, 64, tokens};
    const std::byte* layers[] = {guard - slab.used_bytes()};
    const std::vector<kernels::KvSegment> segments = {{.codec = Codec::kRawBf16,
                                                       .layer_data = layers,
                                                       .head_stride = slab.head_bytes(),
                                                       .block_stride = slab.block_stride(),
                                                       .tokens = tokens}};
    const std::vector<int64_t> positions = {50, 51};
    const std::vector<kernels::KvRead> reads = {{0, 0, 2, 0, nullptr}};
    const auto plan = backend->Plan({positions, segments, reads, ropes}, nullptr);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto q = DeviceTensor::Of(backend.get(), Dtype::kF32, {2, 1, 64}, std::vector<float>(128, 1.0f));
    const auto out = DeviceTensor::Poisoned(backend.get(), Dtype::kF32, {2, 64});
    const DeviceWorkspace workspace(backend.get(), backend->AttentionWorkspaceBytes(**plan, params));
    auto stream = backend->NewStream();
    ASSERT_TRUE(backend->LinkedAttention(*stream, {plan->get(), 0, params, q, out, {}, workspace}).ok());
    EXPECT_EQ(out.Floats(), std::vector<float>(128, 0.0f));  // of values that are zero
  }
  munmap(memory, static_cast<size_t>(2 * page));
}
#endif

// Segments in f32 give the same bits with tiles as without.
TEST(TilesTest, ChangeNoBitOfF32Segments) {
  const kernels::cpu::Threads threads(kernels::cpu::Threads::Available());
  const auto without = kernels::cpu::MakeBackend(threads, {.bf16 = true}), with = MakeEmulatedTiles();
  for (uint64_t i = 0; i < 6; ++i) {
    CaseShape shape = RandomShape(TestSeed() + i);
    if (i % 2 == 1) shape = WithManyRows(std::move(shape));
    if (Work(shape) > 2e8) continue;
    SCOPED_TRACE(shape.Text());
    const LinkedCase::Answer expected = LinkedCase(without.get(), shape).Run({0});
    const LinkedCase::Answer answer = LinkedCase(with.get(), shape).Run({0});
    EXPECT_EQ(answer.out, expected.out);
    EXPECT_EQ(answer.lse, expected.lse);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiles, LinkedAttentionTest,
                         ::testing::Values(BackendFactory{"cpu_emulated_tiles", MakeEmulatedTiles}),
                         [](const auto& info) { return info.param.name; });
#endif

INSTANTIATE_TEST_SUITE_P(Backends, LinkedAttentionTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
