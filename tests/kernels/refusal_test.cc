// Arguments that every backend refuses at launch: INVALID_ARGUMENT naming operation and argument, one line, nothing
// written.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/backends.h"
#include "tests/support/device_tensor.h"

namespace kvlink::testing {
namespace {

using kernels::Dtype;
using kernels::Tensor;

class RefusalTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override {
    backend_ = GetParam().make();
    stream_ = backend_->NewStream();
    kernels::RopeConfig config{.rotary_dim = kDim};
    rope_ = kernels::MakeRope(config).value();
  }
  DeviceTensor Make(Dtype dtype, std::vector<int64_t> sizes) {
    return DeviceTensor::Poisoned(backend_.get(), dtype, std::move(sizes));
  }
  DeviceTensor Zeros(std::vector<int64_t> sizes) {
    int64_t count = 1;
    for (int64_t size : sizes) count *= size;
    return DeviceTensor::Of(backend_.get(), Dtype::kF32, sizes, std::vector<float>(static_cast<size_t>(count), 0.0f));
  }

  static void ExpectRefused(const absl::Status& status, const std::string& prefix) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(std::string(status.message()).substr(0, prefix.size()), prefix);
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
  }
  // Every way in which a tensor can be wrong, on the tensor that `field` picks out of fresh arguments.
  template <typename Args, typename Field, typename Launch>
  void ExpectTensorChecked(const Args& good, const Field& field, const std::string& prefix, const Launch& launch) {
    const auto refused = [&](const auto& spoil) {
      Args args = good;
      spoil(field(args));
      ExpectRefused(launch(args), prefix);
    };
    refused([](Tensor& t) { t.dtype = t.dtype == Dtype::kU64 ? Dtype::kU8 : Dtype::kU64; });
    refused([](Tensor& t) { t.rank = t.rank == 1 ? 2 : t.rank - 1; });
    refused([](Tensor& t) { t.rank = 77; });
    refused([](Tensor& t) { t.sizes[0] = -1; });
    refused([](Tensor& t) { t.bytes -= 1; });
    refused([](Tensor& t) { t.device.index = 5; });
    refused([](Tensor& t) { t.strides[0] = -t.strides[0]; });
    refused([](Tensor& t) { t.strides[0] = int64_t{1} << 62; });
    refused([](Tensor& t) { t.strides[t.rank - 1] = 2; });
    refused([](Tensor& t) {
      if (kernels::DtypeBytes(t.dtype) > 1)
        t.data = static_cast<std::byte*>(t.data) + 1;
      else
        t.bytes = 0;
    });
  }

  static constexpr int64_t kDim = 16;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<kernels::Stream> stream_;
  kernels::Rope rope_;
};

bool Untouched(const DeviceTensor& tensor) {
  for (std::byte byte : tensor.Bytes()) {
    if (byte != std::byte{0xff}) return false;
  }
  return true;
}

TEST_P(RefusalTest, Embed) {
  const auto ids = DeviceTensor::OfInts(backend_.get(), Dtype::kI32, std::vector<int32_t>{0, 1});
  const auto table = Zeros({3, 8}), extra = Zeros({2, 8}), out = Make(Dtype::kF32, {2, 8});
  const kernels::EmbedArgs good{ids, table, extra, out};
  const auto launch = [&](const kernels::EmbedArgs& args) { return backend_->Embed(*stream_, args); };
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.ids; }, "Embed: ids: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.table; }, "Embed: table: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.extra; }, "Embed: extra: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.out; }, "Embed: out: ", launch);
  kernels::EmbedArgs overlapping = good;
  overlapping.out.strides[0] = 4;
  ExpectRefused(launch(overlapping), "Embed: out: ");
  EXPECT_TRUE(Untouched(out));
  EXPECT_TRUE(launch(good).ok());
}

TEST_P(RefusalTest, AddRmsNorm) {
  const auto residual = Make(Dtype::kF32, {2, 8}), delta = Zeros({2, 8}), weight = Zeros({8}),
             out = Make(Dtype::kBf16, {2, 8});
  const kernels::AddRmsNormArgs good{residual, delta, weight, 1e-5f, out};
  const auto launch = [&](const kernels::AddRmsNormArgs& args) { return backend_->AddRmsNorm(*stream_, args); };
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.residual; }, "AddRmsNorm: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.delta; }, "AddRmsNorm: delta: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.weight; }, "AddRmsNorm: weight: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.out; }, "AddRmsNorm: out: ", launch);
  kernels::AddRmsNormArgs bad = good;
  bad.eps = NAN;
  ExpectRefused(launch(bad), "AddRmsNorm: eps: ");
  EXPECT_TRUE(Untouched(residual) && Untouched(out));
}

TEST_P(RefusalTest, LinearAndPackWeights) {
  std::vector<float> host(6 * 8, 1.0f);
  const Tensor weight = Tensor::Dense(host.data(), Dtype::kF32, kernels::Device{}, {6, 8});
  const auto pack = [&](const auto& spoil) {
    Tensor bad = weight;
    spoil(bad);
    ExpectRefused(backend_->PackWeights(bad).status(), "PackWeights: weight: ");
  };
  pack([](Tensor& t) { t.dtype = Dtype::kI32; });
  pack([](Tensor& t) { t.sizes[0] = 0; });
  pack([](Tensor& t) { t.sizes[1] = 0; });
  pack([](Tensor& t) { t.data = nullptr; });
  pack([](Tensor& t) { t.bytes = 6 * 8 * 4 - 1; });
  pack([](Tensor& t) {
    t.strides[0] = 9;
    t.bytes = 1000;
  });
  pack([](Tensor& t) {
    t.sizes = {int64_t{1} << 40, int64_t{1} << 40};
    t.strides = {int64_t{1} << 40, 1};
  });
  const auto packed = backend_->PackWeights(weight).value();
  const auto x = Zeros({2, 8}), bias = Zeros({6}), out = Make(Dtype::kF32, {2, 6});
  const int64_t bytes = backend_->LinearWorkspaceBytes(2, *packed, kernels::Epilogue::kNone);
  const DeviceWorkspace workspace(backend_.get(), bytes);
  const kernels::LinearArgs good{x, packed.get(), bias, kernels::Epilogue::kNone, out, workspace};
  const auto launch = [&](const kernels::LinearArgs& args) { return backend_->Linear(*stream_, args); };
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.x; }, "Linear: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.bias; }, "Linear: bias: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.out; }, "Linear: out: ", launch);
  kernels::LinearArgs bad = good;
  bad.weight = nullptr;
  ExpectRefused(launch(bad), "Linear: weight: ");
  bad = good;
  bad.epilogue = kernels::Epilogue::kSiluMul;  // out has 6 columns, not 3
  ExpectRefused(launch(bad), "Linear: out: ");
  bad = good;
  bad.workspace.bytes = bytes - 1;
  if (bytes > 0) ExpectRefused(launch(bad), "Linear: workspace: ");
  EXPECT_TRUE(Untouched(out));
}

TEST_P(RefusalTest, QkvFinish) {
  const auto qkv = Zeros({2, 4 * kDim}), bias = Zeros({4 * kDim}), norm = Zeros({kDim});
  const auto positions = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{0, 1});
  const auto slots = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{0, 1});
  const auto pages = Make(Dtype::kF32, {1, 1, 128, kDim}), q_out = Make(Dtype::kF32, {2, 2, kDim});
  kernels::QkvFinishArgs good;
  good.params = {.heads = 2, .kv_heads = 1, .head_dim = kDim};
  good.qkv = qkv, good.bias = bias, good.q_norm = norm, good.k_norm = norm, good.rope = &rope_;
  good.positions = positions, good.slots = slots, good.pages = pages, good.q_out = q_out;
  const auto launch = [&](const kernels::QkvFinishArgs& args) { return backend_->QkvFinish(*stream_, args); };
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.qkv; }, "QkvFinish: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.bias; }, "QkvFinish: bias: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.q_norm; }, "QkvFinish: q_norm: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.k_norm; }, "QkvFinish: k_norm: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.positions; }, "QkvFinish: positions: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.slots; }, "QkvFinish: slots: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.q_out; }, "QkvFinish: q_out: ", launch);
  const auto refused = [&](const std::string& prefix, const auto& spoil) {
    kernels::QkvFinishArgs args = good;
    spoil(args);
    ExpectRefused(launch(args), prefix);
  };
  refused("QkvFinish: params: ", [](auto& a) { a.params.heads = 0; });
  refused("QkvFinish: params: ", [](auto& a) { a.params.kv_heads = 0; });
  refused("QkvFinish: params: ", [](auto& a) { a.params.kv_heads = 3; });
  refused("QkvFinish: params: ", [](auto& a) { a.params.head_dim = kDim + 1; });
  refused("QkvFinish: params: ", [](auto& a) { a.params.head_dim = int64_t{1} << 60; });
  refused("QkvFinish: rope: ", [](auto& a) { a.rope = nullptr; });
  const kernels::Rope wide = kernels::MakeRope({.rotary_dim = kDim + 2}).value();
  refused("QkvFinish: rope: ", [&](auto& a) { a.rope = &wide; });
  refused("QkvFinish: pages: ", [](auto& a) { a.pages.dtype = Dtype::kI32; });
  refused("QkvFinish: pages: ", [](auto& a) { a.pages.bytes /= 2; });
  refused("QkvFinish: pages: ", [](auto& a) { a.pages.sizes[2] = 64; });
  refused("QkvFinish: norm_eps: ", [](auto& a) { a.norm_eps = -1; });
  EXPECT_TRUE(Untouched(pages) && Untouched(q_out));
}

TEST_P(RefusalTest, PlanAndLinkedAttention) {
  const auto data = Zeros({2 * 70 * kDim});
  const std::byte* layers[] = {data.data()};
  const std::vector<int64_t> positions = {70, 71};
  std::vector<kernels::KvSegment> segments(1);
  segments[0] = {.codec = Codec::kRawF32,
                 .layer_data = layers,
                 .head_stride = 2 * 70 * kDim * 4,
                 .block_stride = 128 * kDim * 4,
                 .tokens = 70};
  std::vector<kernels::KvRead> reads = {{.segment = 0, .row_begin = 0, .row_count = 2}};
  const kernels::Rope* ropes[] = {&rope_};
  const auto plan_of = [&] { return backend_->Plan({positions, segments, reads, ropes}, nullptr); };
  const auto refused_plan = [&](const std::string& prefix, const auto& spoil) {
    const auto good_segments = segments;
    const auto good_reads = reads;
    spoil();
    ExpectRefused(plan_of().status(), prefix);
    segments = good_segments;
    reads = good_reads;
  };
  refused_plan("Plan: segment 0: ", [&] { segments[0].codec = Codec::kQ4; });
  refused_plan("Plan: segment 0: ", [&] { segments[0].tokens = -1; });
  refused_plan("Plan: segment 0: ", [&] { segments[0].head_stride = -4; });
  refused_plan("Plan: segment 0: ", [&] { segments[0].block_stride = 3; });
  refused_plan("Plan: segment 0: ", [&] { segments[0].codec = Codec::kQ8, segments[0].padded_blocks = true; });
  const int32_t table[] = {0, -1};
  refused_plan("Plan: segment 0: ", [&] { segments[0].block_table = table; });
  const int64_t unordered[] = {3, 3, 4};
  refused_plan("Plan: segment 0: ", [&] { segments[0].positions = unordered, segments[0].tokens = 3; });
  const int64_t ascending[] = {3, 4, 5};
  refused_plan("Plan: read 0: ",
               [&] { segments[0].positions = ascending, segments[0].tokens = 3, reads[0].offset = 1; });
  refused_plan("Plan: read 0: ", [&] { reads[0].segment = 1; });
  refused_plan("Plan: read 0: ", [&] { reads[0].segment = -1; });
  refused_plan("Plan: read 0: ", [&] { reads[0].row_count = 3; });
  refused_plan("Plan: read 0: ", [&] { reads[0].row_begin = -1; });
  refused_plan("Plan: read 0: ", [&] { reads[0].row_begin = std::numeric_limits<int64_t>::max(); });
  refused_plan("Plan: read 0: ", [&] { reads[0].offset = std::numeric_limits<int64_t>::min(); });
  refused_plan("Plan: read 1: ", [&] {
    segments.push_back(segments[0]), reads = {reads[0], reads[0]}, reads[0].segment = 1;
  });
  const std::vector<int64_t> negative = {0, -1};
  ExpectRefused(backend_->Plan({negative, segments, reads, ropes}, nullptr).status(), "Plan: positions: ");
  const kernels::Rope* missing[] = {nullptr};
  ExpectRefused(backend_->Plan({positions, segments, reads, missing}, nullptr).status(), "Plan: rope: ");

  const auto plan = plan_of();
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto q = Zeros({2, 2, kDim}), out = Make(Dtype::kF32, {2, 2 * kDim}), lse = Make(Dtype::kF32, {2, 2});
  kernels::LinkedAttentionArgs good;
  good.plan = plan->get();
  good.params = {.heads = 2, .kv_heads = 1, .head_dim = kDim, .scale = 0.25f};
  good.q = q, good.out = out, good.lse = lse;
  const int64_t bytes = backend_->AttentionWorkspaceBytes(**plan, good.params);
  const DeviceWorkspace workspace(backend_.get(), bytes);
  good.workspace = workspace;
  const auto launch = [&](const kernels::LinkedAttentionArgs& args) {
    return backend_->LinkedAttention(*stream_, args);
  };
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.q; }, "LinkedAttention: q: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.out; }, "LinkedAttention: out: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.lse; }, "LinkedAttention: lse: ", launch);
  const auto refused = [&](const std::string& prefix, const auto& spoil) {
    kernels::LinkedAttentionArgs args = good;
    spoil(args);
    ExpectRefused(launch(args), prefix);
  };
  refused("LinkedAttention: plan: ", [](auto& a) { a.plan = nullptr; });
  refused("LinkedAttention: layer: ", [](auto& a) { a.layer = -1; });
  refused("LinkedAttention: segment 0: ", [](auto& a) { a.layer = 1; });
  refused("LinkedAttention: params: ", [](auto& a) { a.params.rope = 1; });
  refused("LinkedAttention: params: ", [](auto& a) { a.params.rope = -1; });
  refused("LinkedAttention: params: ", [](auto& a) { a.params.scale = NAN; });
  refused("LinkedAttention: params: ", [](auto& a) { a.params.softcap = -1; });
  refused("LinkedAttention: params: ", [](auto& a) { a.params.window = -1; });
  refused("LinkedAttention: params: ", [](auto& a) { a.params.heads = 3, a.params.kv_heads = 2; });
  if (bytes > 0) {
    refused("LinkedAttention: workspace: ", [](auto& a) { a.workspace.bytes -= 1; });
    refused("LinkedAttention: workspace: ", [](auto& a) { a.workspace.data = nullptr; });
  }
  EXPECT_TRUE(Untouched(out) && Untouched(lse));
  EXPECT_TRUE(launch(good).ok());
  EXPECT_TRUE(stream_->Synchronize().ok());
}

TEST_P(RefusalTest, KeyMass) {
  const auto data = Zeros({2 * 70 * kDim});
  const std::byte* layers[] = {data.data()};
  const std::vector<int64_t> positions = {70, 71};
  const std::vector<kernels::KvSegment> segments = {{.codec = Codec::kRawF32,
                                                     .layer_data = layers,
                                                     .head_stride = 2 * 70 * kDim * 4,
                                                     .block_stride = 128 * kDim * 4,
                                                     .tokens = 70}};
  const std::vector<kernels::KvRead> reads = {{.row_count = 2}, {.row_count = 1, .offset = 1}};
  const kernels::Rope* ropes[] = {&rope_};
  const auto plan = backend_->Plan({positions, segments, reads, ropes}, nullptr);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto q = Zeros({2, 2, kDim}), lse = Zeros({2, 2}), mass = Make(Dtype::kF32, {140});
  kernels::KeyMassArgs good;
  good.plan = plan->get();
  good.params = {.heads = 2, .kv_heads = 1, .head_dim = kDim, .scale = 0.25f};
  good.q = q, good.lse = lse, good.mass = mass, good.row_count = 2;
  const int64_t bytes = backend_->AttentionWorkspaceBytes(**plan, good.params);
  const DeviceWorkspace workspace(backend_.get(), bytes);
  good.workspace = workspace;
  const auto launch = [&](const kernels::KeyMassArgs& args) { return backend_->KeyMass(*stream_, args); };
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.q; }, "KeyMass: q: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.lse; }, "KeyMass: lse: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.mass; }, "KeyMass: mass: ", launch);
  const auto refused = [&](const std::string& prefix, const auto& spoil) {
    kernels::KeyMassArgs args = good;
    spoil(args);
    ExpectRefused(launch(args), prefix);
  };
  refused("KeyMass: plan: ", [](auto& a) { a.plan = nullptr; });
  refused("KeyMass: layer: ", [](auto& a) { a.layer = -1; });
  refused("KeyMass: segment 0: ", [](auto& a) { a.layer = 1; });
  refused("KeyMass: params: ", [](auto& a) { a.params.rope = 1; });
  refused("KeyMass: row_begin: ", [](auto& a) { a.row_begin = 1; });
  refused("KeyMass: row_begin: ", [](auto& a) { a.row_count = -1; });
  refused("KeyMass: mass: ", [](auto& a) { a.mass.sizes[0] = 70; });
  if (bytes > 0) refused("KeyMass: workspace: ", [](auto& a) { a.workspace.bytes -= 1; });
  EXPECT_TRUE(Untouched(mass));
  EXPECT_TRUE(launch(good).ok());
  EXPECT_TRUE(stream_->Synchronize().ok());
}

TEST_P(RefusalTest, KvDeviation) {
  const auto data = Zeros({2 * 70 * kDim}), pages = Zeros({1, 1, 128, kDim}), out = Make(Dtype::kF32, {2});
  const std::byte* layers[] = {data.data()};
  const auto tokens = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{0, 69});
  const auto slots = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{0, 1});
  kernels::KvDeviationArgs good;
  good.segment = {.codec = Codec::kRawF32, .layer_data = layers, .block_stride = 128 * kDim * 4, .tokens = 70};
  good.rope = &rope_;
  good.tokens = tokens, good.slots = slots, good.pages = pages, good.out = out;
  const auto launch = [&](const kernels::KvDeviationArgs& args) { return backend_->KvDeviation(*stream_, args); };
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.tokens; }, "KvDeviation: tokens: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.slots; }, "KvDeviation: slots: ", launch);
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.out; }, "KvDeviation: out: ", launch);
  const auto refused = [&](const std::string& prefix, const auto& spoil) {
    kernels::KvDeviationArgs args = good;
    spoil(args);
    ExpectRefused(launch(args), prefix);
  };
  const int64_t positions[] = {3, 4};
  refused("KvDeviation: pages: ", [](auto& a) { a.pages.dtype = Dtype::kI32; });
  refused("KvDeviation: pages: ", [](auto& a) { a.pages.sizes[2] = 64; });
  refused("KvDeviation: rope: ", [](auto& a) { a.rope = nullptr; });
  refused("KvDeviation: segment: ", [](auto& a) { a.segment.codec = Codec::kQ4; });
  refused("KvDeviation: segment: ", [](auto& a) { a.segment.tokens = -1; });
  refused("KvDeviation: segment: ", [](auto& a) { a.segment.block_stride = 4; });
  refused("KvDeviation: segment: ", [](auto& a) { a.layer = 1; });
  refused("KvDeviation: layer: ", [](auto& a) { a.layer = -1; });
  refused("KvDeviation: offset: ", [](auto& a) { a.offset = std::numeric_limits<int64_t>::min(); });
  refused("KvDeviation: offset: ",
          [&](auto& a) { a.offset = 1, a.segment.positions = positions, a.segment.tokens = 2; });
  EXPECT_TRUE(Untouched(out));
  EXPECT_TRUE(launch(good).ok());
  EXPECT_TRUE(stream_->Synchronize().ok());
}

TEST_P(RefusalTest, PackAndDecode) {
  const SlabShape shape{Codec::kQ4, 1, kDim, 70};
  const auto pages = Zeros({2, 1, 128, kDim}), slab = Make(Dtype::kU8, {shape.slab_bytes()});
  const int32_t table[] = {1, 0}, beyond[] = {0, 2};
  const kernels::PackArgs good{shape, pages, table, &rope_, slab};
  const auto launch = [&](const kernels::PackArgs& args) { return backend_->Pack(*stream_, args); };
  ExpectTensorChecked(
      good, [](auto& a) -> Tensor& { return a.slab; }, "Pack: slab: ", launch);
  const auto refused = [&](const std::string& prefix, const auto& spoil) {
    kernels::PackArgs args = good;
    spoil(args);
    ExpectRefused(launch(args), prefix);
  };
  refused("Pack: shape: ", [](auto& a) { a.shape.tokens = 0; });
  refused("Pack: shape: ", [](auto& a) { a.shape.codec = static_cast<Codec>(9); });
  refused("Pack: pages: ", [](auto& a) { a.shape.kv_heads = 2; });
  refused("Pack: slab: ", [](auto& a) {
    a.shape.tokens = 128 * 64, a.shape.tokens = 20000;
    a.pages.sizes[0] = 2;
    static std::vector<int32_t> zero(400, 0);
    a.block_table = zero.data();
  });
  refused("Pack: block_table: ", [](auto& a) { a.block_table = nullptr; });
  refused("Pack: block_table: ", [&](auto& a) { a.block_table = beyond; });
  refused("Pack: rope: ", [](auto& a) { a.rope = nullptr; });
  EXPECT_TRUE(Untouched(slab));
  ASSERT_TRUE(launch(good).ok());

  SlabShape raw = shape;
  raw.codec = Codec::kRawF32;
  const auto out = Make(Dtype::kU8, {raw.slab_bytes()});
  const kernels::DecodeArgs good_decode{shape, slab, Codec::kRawF32, &rope_, out};
  const auto decode = [&](const kernels::DecodeArgs& args) { return backend_->Decode(*stream_, args); };
  ExpectTensorChecked(
      good_decode, [](auto& a) -> Tensor& { return a.source; }, "Decode: source: ", decode);
  ExpectTensorChecked(
      good_decode, [](auto& a) -> Tensor& { return a.out; }, "Decode: out: ", decode);
  const auto refused_decode = [&](const std::string& prefix, const auto& spoil) {
    kernels::DecodeArgs args = good_decode;
    spoil(args);
    ExpectRefused(decode(args), prefix);
  };
  refused_decode("Decode: codec: ", [](auto& a) { a.codec = Codec::kQ8; });
  refused_decode("Decode: rope: ", [](auto& a) { a.rope = nullptr; });
  refused_decode("Decode: source_shape: ", [](auto& a) { a.source_shape.head_dim = 3; });
  EXPECT_TRUE(Untouched(out));
  EXPECT_TRUE(decode(good_decode).ok());
}

TEST_P(RefusalTest, ShiftKeysChecksumSample) {
  const auto in = Zeros({2, 1, kDim}), out = Make(Dtype::kF32, {4, 1, kDim});
  const auto slots = DeviceTensor::OfInts(backend_.get(), Dtype::kI64, std::vector<int64_t>{0, 3});
  const kernels::ShiftKeysArgs shift{&rope_, 5, in, slots, out};
  const auto launch = [&](const kernels::ShiftKeysArgs& args) { return backend_->ShiftKeys(*stream_, args); };
  ExpectTensorChecked(
      shift, [](auto& a) -> Tensor& { return a.in; }, "ShiftKeys: ", launch);
  ExpectTensorChecked(
      shift, [](auto& a) -> Tensor& { return a.slots; }, "ShiftKeys: slots: ", launch);
  ExpectTensorChecked(
      shift, [](auto& a) -> Tensor& { return a.out; }, "ShiftKeys: out: ", launch);
  kernels::ShiftKeysArgs bad = shift;
  bad.delta = std::numeric_limits<int64_t>::min();
  ExpectRefused(launch(bad), "ShiftKeys: delta: ");
  EXPECT_TRUE(Untouched(out));

  const auto bytes = DeviceTensor::OfInts(backend_.get(), Dtype::kU8, std::vector<uint8_t>(100)),
             sums = Make(Dtype::kU64, {1});
  const auto sum = [&](int64_t offset, int64_t length) {
    return backend_->Checksum(*stream_,
                              {bytes, absl::MakeConstSpan(&offset, 1), absl::MakeConstSpan(&length, 1), sums});
  };
  ExpectRefused(sum(-1, 1), "Checksum: offsets: ");
  ExpectRefused(sum(0, 101), "Checksum: offsets: ");
  ExpectRefused(sum(1, std::numeric_limits<int64_t>::max()), "Checksum: offsets: ");
  ExpectRefused(sum(0, -1), "Checksum: offsets: ");
  EXPECT_TRUE(Untouched(sums));
  EXPECT_TRUE(sum(0, 100).ok());

  const auto logits = Zeros({1, 10}), tokens = Make(Dtype::kI32, {1});
  const DeviceWorkspace workspace(backend_.get(), backend_->SampleWorkspaceBytes(1, 10, 1));
  const auto sample = [&](const kernels::SampleParams& params) {
    return backend_->Sample(*stream_, {logits, absl::MakeConstSpan(&params, 1), tokens, workspace});
  };
  ExpectRefused(sample({.temperature = -1}), "Sample: params: ");
  ExpectRefused(sample({.temperature = NAN}), "Sample: params: ");
  ExpectRefused(sample({.temperature = 1, .top_k = -1}), "Sample: params: ");
  ExpectRefused(sample({.temperature = 1, .top_p = 1.5f}), "Sample: params: ");
  ExpectRefused(sample({.temperature = 1, .top_p = NAN}), "Sample: params: ");
  ExpectRefused(sample({.temperature = 1, .min_p = -0.1f}), "Sample: params: ");
  ExpectRefused(sample({.temperature = 1, .position = -1}), "Sample: params: ");
  const auto adjust = [&](std::vector<kernels::LogitAdjustment> adjustments, size_t rows = 1) {
    const kernels::SampleParams params;
    const std::vector<kernels::RowAdjustments> of_rows(rows, {adjustments});
    return backend_->Sample(*stream_, {logits, absl::MakeConstSpan(&params, 1), tokens, workspace, of_rows});
  };
  ExpectRefused(adjust({}, 2), "Sample: adjustments: ");
  ExpectRefused(adjust({{.token = 10}}), "Sample: adjustments: ");
  ExpectRefused(adjust({{.token = -1}}), "Sample: adjustments: ");
  ExpectRefused(adjust({{.token = 3}, {.token = 3}}), "Sample: adjustments: ");
  ExpectRefused(adjust({{.bias = INFINITY}}), "Sample: adjustments: ");
  ExpectRefused(adjust({{.penalty = NAN}}), "Sample: adjustments: ");
  ExpectRefused(adjust({{.repetition = 0}}), "Sample: adjustments: ");
  ExpectRefused(adjust({{.repetition = INFINITY}}), "Sample: adjustments: ");
  EXPECT_TRUE(Untouched(tokens));
  EXPECT_TRUE(sample({}).ok());
  EXPECT_TRUE(adjust({{.token = 3}, {.token = 9}}).ok());

  const auto two = Zeros({2, 10}), chosen = Make(Dtype::kI32, {2}), logprobs = Make(Dtype::kF32, {2, 3}),
             likeliest = Make(Dtype::kI32, {2, 2});
  const std::vector<int64_t> both = {1, 0};
  const kernels::LogprobsArgs log_args{two, both, chosen, 2, logprobs, likeliest};
  const auto log = [&](const kernels::LogprobsArgs& args) { return backend_->Logprobs(*stream_, args); };
  ExpectTensorChecked(
      log_args, [](auto& a) -> Tensor& { return a.logits; }, "Logprobs: ", log);
  ExpectTensorChecked(
      log_args, [](auto& a) -> Tensor& { return a.tokens; }, "Logprobs: tokens: ", log);
  ExpectTensorChecked(
      log_args, [](auto& a) -> Tensor& { return a.out; }, "Logprobs: out: ", log);
  ExpectTensorChecked(
      log_args, [](auto& a) -> Tensor& { return a.likeliest; }, "Logprobs: likeliest: ", log);
  const auto changed = [&](int64_t of, int64_t top) {
    kernels::LogprobsArgs args = log_args;
    args.rows = absl::MakeConstSpan(&of, 1);
    args.top = top;
    return log(args);
  };
  ExpectRefused(changed(2, 2), "Logprobs: rows: ");
  ExpectRefused(changed(-1, 2), "Logprobs: rows: ");
  ExpectRefused(changed(0, kernels::kMaxLikeliest + 1), "Logprobs: top: ");
  ExpectRefused(changed(0, -1), "Logprobs: top: ");
  EXPECT_TRUE(Untouched(logprobs));
  EXPECT_TRUE(log(log_args).ok());
}

TEST_P(RefusalTest, Memory) {
  EXPECT_EQ(backend_->Allocate(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(backend_->Allocate(int64_t{1} << 60).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(backend_->Allocate(std::numeric_limits<int64_t>::max()).status().code(),
            absl::StatusCode::kResourceExhausted);
  const auto empty = backend_->Allocate(0);
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->bytes(), 0);
  auto buffer = backend_->Allocate(5000).value();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 4096, 0u);
  kernels::Buffer moved = std::move(buffer);
  EXPECT_EQ(moved.bytes(), 5000);
  moved.reset();
  EXPECT_EQ(moved.data(), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Backends, RefusalTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::testing
