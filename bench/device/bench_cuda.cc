// How fast are the kernels of the CUDA backend? Measures each operation for the shapes of Llama-3.1-8B: products and
// attention in floating-point operations per second, operations that only move memory in bytes per second. Many
// launches in one stream are timed together, with one wait at the end.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/slab.h"
#include "bench/bench_common.h"
#include "bench/device/launch_time.h"
#include "kernels/cuda/cuda.h"

namespace kvlink::bench {
namespace {

using kernels::Dtype;
using kernels::Tensor;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::exit(1);
}
template <typename T>
T Value(absl::StatusOr<T> value) {
  Check(value.status());
  return *std::move(value);
}

constexpr int64_t kHidden = 4096, kHeads = 32, kKvHeads = 8, kDim = 128, kFfn = 14336, kVocab = 128256;

kernels::AttentionParams Attention() {
  kernels::AttentionParams params;
  params.heads = kHeads, params.kv_heads = kKvHeads, params.head_dim = kDim;
  params.scale = 1 / std::sqrt(static_cast<float>(kDim));
  return params;
}

class Bench {
 public:
  Bench(std::unique_ptr<kernels::Backend> backend, int rounds)
      : backend_(std::move(backend)), stream_(backend_->NewStream()), rounds_(rounds), report_("The CUDA backend") {}

  Report& report() { return report_; }

  void Linear() {
    report_.Section("Linear in bf16 (cuBLASLt)");
    struct Shape {
      const char* name;
      int64_t n, k;
      bool silu;
    };
    const std::vector<Shape> shapes = {{"qkv", (kHeads + 2 * kKvHeads) * kDim, kHidden, false},
                                       {"gate, up, silu", 2 * kFfn, kHidden, true},
                                       {"down", kHidden, kFfn, false}};
    for (const Shape& shape : shapes) {
      std::vector<uint16_t> host(static_cast<size_t>(shape.n * shape.k), 0x3c00);
      const auto packed =
          Value(backend_->PackWeights(Tensor::Dense(host.data(), Dtype::kBf16, {}, {shape.n, shape.k})));
      for (int64_t rows : {1, 16, 64, 512, 2048}) {
        kernels::LinearArgs args;
        args.x = Make(Dtype::kBf16, {rows, shape.k});
        args.weight = packed.get();
        args.epilogue = shape.silu ? kernels::Epilogue::kSiluMul : kernels::Epilogue::kNone;
        args.out = Make(Dtype::kBf16, {rows, shape.silu ? shape.n / 2 : shape.n});
        args.workspace = Scratch(backend_->LinearWorkspaceBytes(rows, *packed, args.epilogue));
        const double seconds = Seconds([&] { return backend_->Linear(*stream_, args); });
        const std::string name = absl::StrCat(shape.name, " x ", rows, " rows");
        if (rows <= 64) report_.Add(name, static_cast<double>(packed->bytes()) / seconds / 1e9, "GB/s");
        if (rows > 64)
          report_.Add(name, 2.0 * static_cast<double>(shape.n * shape.k * rows) / seconds / 1e12, "TFLOP/s");
        Drop();
      }
    }
  }

  // `requests` of `rows` fresh rows each after the same documents, at different offsets in each request.
  void Linked(int64_t requests, int64_t rows, int64_t documents, int64_t tokens, Codec codec) {
    const SlabShape slab{codec, kKvHeads, kDim, tokens};
    std::vector<const std::byte*> layers;
    std::vector<kernels::KvSegment> segments(static_cast<size_t>(documents));
    std::vector<kernels::KvRead> reads;
    layers.reserve(segments.size());
    for (int64_t i = 0; i < documents; ++i) {
      layers.push_back(Make(Dtype::kU8, {slab.slab_bytes()}).as<const std::byte>());
      kernels::KvSegment& segment = segments[static_cast<size_t>(i)];
      segment.codec = codec;
      segment.layer_data = {&layers.back(), 1};
      segment.head_stride = slab.head_bytes(), segment.block_stride = slab.block_stride();
      segment.tokens = tokens;
      for (int64_t r = 0; r < requests; ++r) {
        reads.push_back({static_cast<int32_t>(i), r * rows, rows, (i + r) % documents * tokens, nullptr});
      }
    }
    std::vector<int64_t> positions;
    for (int64_t r = 0; r < requests; ++r) {
      for (int64_t i = 0; i < rows; ++i) positions.push_back(documents * tokens + i);
    }
    const kernels::Rope rope = Value(kernels::MakeRope({.rotary_dim = kDim}));
    const kernels::Rope* ropes[] = {&rope};
    const kernels::AttentionBatch batch{positions, segments, reads, ropes};
    auto plan = Value(backend_->Plan(batch, nullptr));
    const std::string name = absl::StrCat("linked, ", requests, " x ", rows, " rows, ", documents, " x ", tokens,
                                          " tokens ", CodecName(codec));
    kernels::LinkedAttentionArgs args;
    args.plan = plan.get();
    args.params = Attention();
    const int64_t all = requests * rows;
    args.q = Make(Dtype::kBf16, {all, kHeads, kDim});
    args.out = Make(Dtype::kBf16, {all, kHeads * kDim});
    args.workspace = Scratch(backend_->AttentionWorkspaceBytes(*plan, args.params));
    const double seconds = Seconds([&] { return backend_->LinkedAttention(*stream_, args); });
    report_.Add(name, seconds * 1e6, "us");
    report_.Add(absl::StrCat(name, ": keys and values, counted once"),
                static_cast<double>(slab.used_bytes() * documents) / seconds / 1e9, "GB/s");
    report_.Add(absl::StrCat(name, ": products"),
                static_cast<double>(documents * tokens * all * 4 * kHeads * kDim) / seconds / 1e12, "TFLOP/s");
    const double start = Now();
    for (int i = 0; i < rounds_; ++i) plan = Value(backend_->Plan(batch, std::move(plan)));
    report_.Add(absl::StrCat(name, ": plan"), (Now() - start) / rounds_ * 1e6, "us");
    Drop();
  }

  // Causal attention over the private pages that the rows were appended to.
  void Prefill(int64_t rows) {
    const int64_t pages = (rows + kBlockTokens - 1) / kBlockTokens;
    const std::byte* layer = Make(Dtype::kBf16, {pages, kKvHeads, 2 * kBlockTokens, kDim}).as<const std::byte>();
    std::vector<int64_t> positions(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) positions[static_cast<size_t>(i)] = i;
    kernels::KvSegment segment;
    segment.codec = Codec::kRawBf16;
    segment.layer_data = {&layer, 1};
    segment.head_stride = 2 * kBlockTokens * kDim * 2, segment.block_stride = segment.head_stride * kKvHeads;
    segment.tokens = rows;
    segment.padded_blocks = true;
    segment.positions = positions.data();
    kernels::KvRead read;
    read.row_count = rows;
    const kernels::Rope rope = Value(kernels::MakeRope({.rotary_dim = kDim}));
    const kernels::Rope* ropes[] = {&rope};
    const auto plan = Value(backend_->Plan({positions, {&segment, 1}, {&read, 1}, ropes}, nullptr));
    kernels::LinkedAttentionArgs args;
    args.plan = plan.get();
    args.params = Attention();
    args.q = Make(Dtype::kBf16, {rows, kHeads, kDim});
    args.out = Make(Dtype::kBf16, {rows, kHeads * kDim});
    args.workspace = Scratch(backend_->AttentionWorkspaceBytes(*plan, args.params));
    const double seconds = Seconds([&] { return backend_->LinkedAttention(*stream_, args); });
    const double pairs = static_cast<double>(rows) * static_cast<double>(rows + 1) / 2;
    report_.Add(absl::StrCat("causal ", rows, " rows"), pairs * 4 * kHeads * kDim / seconds / 1e12, "TFLOP/s");
    Drop();
  }

  void Rows() {
    report_.Section("Rows and checksums");
    const int64_t rows = 2048;
    {
      const kernels::AddRmsNormArgs args{Make(Dtype::kF32, {rows, kHidden}), Make(Dtype::kBf16, {rows, kHidden}),
                                         Make(Dtype::kF32, {kHidden}), 1e-5f, Make(Dtype::kBf16, {rows, kHidden})};
      const double seconds = Seconds([&] { return backend_->AddRmsNorm(*stream_, args); });
      report_.Add("AddRmsNorm", static_cast<double>(rows * kHidden * 12) / seconds / 1e9, "GB/s");
      Drop();
    }
    {
      std::vector<int64_t> offsets, lengths;
      for (int64_t i = 0; i < 1024; ++i) offsets.push_back(i << 18), lengths.push_back(int64_t{1} << 18);
      const kernels::ChecksumArgs args{Make(Dtype::kU8, {int64_t{1} << 28}), offsets, lengths,
                                       Make(Dtype::kU64, {1024})};
      const double seconds = Seconds([&] { return backend_->Checksum(*stream_, args); });
      report_.Add("Checksum, units of 256 KiB", static_cast<double>(int64_t{1} << 28) / seconds / 1e9, "GB/s");
      Drop();
    }
    for (const bool greedy : {true, false}) {
      const std::vector<kernels::SampleParams> params(
          16, greedy ? kernels::SampleParams{} : kernels::SampleParams{0.8f, 40, 0.95f, 0, 1, 1});
      const kernels::SampleArgs args{Make(Dtype::kF32, {16, kVocab}), params, Make(Dtype::kI32, {16}),
                                     Scratch(backend_->SampleWorkspaceBytes(16, kVocab, 0))};
      report_.Add(greedy ? "Sample 16 rows, greedy" : "Sample 16 rows, temperature, top-k 40, top-p 0.95",
                  Seconds([&] { return backend_->Sample(*stream_, args); }) * 1e6, "us");
      Drop();
    }
  }

 private:
  // Zeroed memory, freed by Drop().
  Tensor Make(Dtype dtype, std::vector<int64_t> sizes) {
    Tensor tensor = Tensor::Dense(nullptr, dtype, backend_->device(), sizes);
    tensor.data = Allocate(tensor.bytes);
    return tensor;
  }
  kernels::Workspace Scratch(int64_t bytes) { return {Allocate(bytes), bytes}; }
  void* Allocate(int64_t bytes) {
    buffers_.push_back(Value(backend_->Allocate(std::max<int64_t>(bytes, 64))));
    const std::vector<std::byte> zeros(static_cast<size_t>(bytes));
    Check(backend_->CopyIn(*stream_, zeros.data(), buffers_.back().data(), bytes));
    Check(stream_->Synchronize());
    return buffers_.back().data();
  }
  void Drop() { buffers_.clear(); }

  double Seconds(absl::FunctionRef<absl::Status()> launch) { return Value(LaunchSeconds(*stream_, rounds_, launch)); }

  const std::unique_ptr<kernels::Backend> backend_;
  const std::unique_ptr<kernels::Stream> stream_;
  const int rounds_;
  Report report_;
  std::vector<kernels::Buffer> buffers_;
};

int Main(int argc, char** argv) {
  const Flags flags = Value(
      Flags::Parse(argc, argv, "Measures the kernels of the CUDA backend.",
                   {{"device", "N", "The CUDA device (default 0)."}, {"rounds", "N", "Rounds of each (default 9)."}}));
  if (flags.help_wanted()) return 0;
  auto backend = kernels::MakeCudaBackend({.device = static_cast<int>(flags.GetInt("device", 0))});
  if (absl::IsUnavailable(backend.status())) {
    std::printf("bench_cuda: skipped, %s\n", std::string(backend.status().message()).c_str());
    return 0;
  }
  Bench bench(Value(std::move(backend)), static_cast<int>(flags.GetInt("rounds", 9)));
  bench.Linear();
  bench.report().Section("LinkedAttention");
  for (Codec codec : {Codec::kRawBf16, Codec::kQ8}) {
    bench.Linked(1, 1, 15, 512, codec);
    bench.Linked(1, 64, 15, 512, codec);
    bench.Linked(1, 512, 15, 512, codec);
  }
  for (int64_t rows : {512, 2048, 8192}) bench.Prefill(rows);
  bench.Rows();
  return bench.report().Finish(flags.json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
