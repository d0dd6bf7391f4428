// How close do the CPU kernels come to what this machine can do? Measures each operation for the shapes of SmolLM2-135M
// and Llama-3.1-8B against a ceiling measured in the same rounds: fused multiply-adds per second, or bytes read or
// moved per second over as much memory as the operation touches, so that both find it in the same cache. bf16 products
// are reported as a multiple of VDPBF16PS or, where the CPU has none, of f32 multiply-adds, not as a share: AMX has no
// ceiling here.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/slab.h"
#include "bench/bench_common.h"
#include "bench/ceilings.h"
#include "kernels/cpu/cpu.h"

namespace kvlink::bench {
namespace {

using kernels::Dtype;
using kernels::Tensor;

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::exit(1);
}
void Check(const absl::Status& status) {
  if (!status.ok()) Die(status);
}
template <typename T>
T Value(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status());
  return *std::move(value);
}

struct Model {
  std::string name;
  int64_t hidden, heads, kv_heads, dim, ffn, vocab;
  kernels::AttentionParams attention() const {
    kernels::AttentionParams params;
    params.heads = heads;
    params.kv_heads = kv_heads;
    params.head_dim = dim;
    params.scale = 1 / std::sqrt(static_cast<float>(dim));
    return params;
  }
};
const Model kSmol{"SmolLM2-135M", 576, 9, 3, 64, 1536, 49152};
const Model kLlama{"Llama-3.1-8B", 4096, 32, 8, 128, 14336, 128256};

// Memory filled with small random numbers (bytes, for Dtype::kU8).
struct Array {
  Array(Dtype dtype, std::vector<int64_t> sizes) : memory(Bytes(dtype, sizes)) {
    tensor = Tensor::Dense(memory.as<>(), dtype, {}, sizes);
    std::minstd_rand random(7);
    const int64_t count = tensor.elements();
    for (int64_t i = 0; i < count; ++i) {
      const float value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      if (dtype == Dtype::kF32) memory.as<float>()[i] = value;
      if (dtype == Dtype::kBf16) memory.as<uint16_t>()[i] = static_cast<uint16_t>(bits >> 16);
      if (dtype == Dtype::kU8) memory.as<uint8_t>()[i] = static_cast<uint8_t>(random());
    }
  }
  static int64_t Bytes(Dtype dtype, const std::vector<int64_t>& sizes) {
    int64_t bytes = kernels::DtypeBytes(dtype);
    for (int64_t size : sizes) bytes *= size;
    return std::max<int64_t>(bytes, 64);
  }
  Memory memory;
  Tensor tensor;
};

class Bench {
 public:
  Bench(int threads, int rounds)
      : backend_(Value(kernels::MakeCpuBackend({.threads = threads, .compute = kernels::CpuOptions::Compute::kF32}))),
        bf16_(Value(kernels::MakeCpuBackend({.threads = threads, .compute = kernels::CpuOptions::Compute::kBf16}))),
        ceilings_(threads),
        dots_(ceilings_.DotGflops() > 0),
        rounds_(rounds),
        report_("Kernels of the CPU backend, and the share they reach of what was measured around them") {}

  Report& report() { return report_; }
  void Ceilings();
  // Each on the f32 backend, or on the bf16 one.
  void Linear(const Model& model, absl::Span<const int64_t> rows, bool bf16);
  void Decode(const Model& model, Dtype weights, int64_t rows, bool bf16);
  void Prefill(const Model& model, int64_t rows, bool bf16);
  void Linked(const Model& model, int64_t rows, int64_t documents, int64_t tokens, Codec codec, bool bf16);
  void AttentionInBf16(const Model& model);
  void Rows(const Model& model);

 private:
  // Runs `ceiling` and `operation` in turn; each returns its work per second. Reports the operation's median rate, and
  // the median of its share of the ceiling in the same round.
  void Share(const std::string& name, absl::string_view unit, double target, const std::function<double()>& ceiling,
             const std::function<double()>& operation, absl::string_view label = "share of ceiling") {
    std::vector<double> rates, shares;
    for (int round = -1; round < rounds_; ++round) {
      const double most = ceiling();
      const double rate = operation();
      if (round < 0) continue;
      rates.push_back(rate);
      shares.push_back(rate / most);
    }
    report_.Add(name, Median(rates), unit);
    report_.Add(absl::StrCat(name, ", ", label), Median(shares), "",
                target > 0 ? std::optional<Target>(Target{target}) : std::nullopt);
  }
  // Repeats f for at least 20 ms; `work` per call, in units of 1e9.
  static double Rate(double work, const std::function<void()>& f) {
    const double start = Now();
    int calls = 0;
    do {
      f();
      ++calls;
    } while (Now() - start < 0.02);
    return work * calls / (Now() - start) / 1e9;
  }
  kernels::Backend& backend(bool bf16) { return bf16 ? *bf16_ : *backend_; }
  // What products of the backend are compared with.
  double Gflops(const kernels::Backend& backend) const {
    return dots_ && backend.compute_dtype() == Dtype::kBf16 ? ceilings_.DotGflops() : ceilings_.FmaGflops();
  }
  absl::string_view Label(const kernels::Backend& backend) const {
    if (backend.compute_dtype() == Dtype::kF32) return "share of ceiling";
    return dots_ ? "times VDPBF16PS" : "times f32 multiply-adds";
  }
  void LinearShape(const std::string& name, kernels::Backend& backend, int64_t n, int64_t k, int64_t rows, bool silu,
                   double target);
  void RunAttention(kernels::Backend& backend, const std::string& name, const Model& model,
                    const kernels::AttentionBatch& batch, double flops, double bytes);

  std::unique_ptr<kernels::Backend> backend_, bf16_;
  class Ceilings ceilings_;
  const bool dots_;  // the CPU has VDPBF16PS
  const int rounds_;
  Report report_;
};

void Bench::Ceilings() {
  report_.Section("ceilings");
  const auto median = [&](auto&& f) {
    std::vector<double> values;
    for (int i = 0; i < rounds_; ++i) values.push_back(f());
    return Median(values);
  };
  report_.Add("f32 fused multiply-adds", median([&] { return ceilings_.FmaGflops(); }), "GFLOP/s");
  if (dots_) report_.Add("bf16 products (VDPBF16PS)", median([&] { return ceilings_.DotGflops(); }), "GFLOP/s");
  report_.Add("memory read", median([&] { return ceilings_.ReadGbps(Ceilings::kUncached); }), "GB/s");
  report_.Add("memory moved by a copy (bytes in and out)",
              median([&] { return ceilings_.MoveGbps(Ceilings::kUncached); }), "GB/s");
}

void Bench::LinearShape(const std::string& name, kernels::Backend& backend, int64_t n, int64_t k, int64_t rows,
                        bool silu, double target) {
  const Dtype dtype = backend.compute_dtype();
  const Array weight(Dtype::kF32, {n, k}), x(dtype, {rows, k}), out(dtype, {rows, silu ? n / 2 : n});
  const auto packed = Value(backend.PackWeights(weight.tensor));
  kernels::LinearArgs args;
  args.x = x.tensor;
  args.weight = packed.get();
  args.epilogue = silu ? kernels::Epilogue::kSiluMul : kernels::Epilogue::kNone;
  args.out = out.tensor;
  const Memory workspace(backend.LinearWorkspaceBytes(rows, *packed, args.epilogue) + 64);
  args.workspace = {workspace.as<>(), workspace.bytes()};
  const auto stream = backend.NewStream();
  Share(
      absl::StrCat(name, " [", n, ", ", k, "] x ", rows, " rows"), "GFLOP/s", target, [&] { return Gflops(backend); },
      [&] { return Rate(2.0 * static_cast<double>(n * k * rows), [&] { Check(backend.Linear(*stream, args)); }); },
      Label(backend));
}

void Bench::Linear(const Model& model, absl::Span<const int64_t> rows, bool bf16) {
  report_.Section(absl::StrCat("Linear in ", bf16 ? "bf16, " : "f32, ", model.name));
  const std::string in = bf16 ? " in bf16" : "";
  const int64_t qkv = (model.heads + 2 * model.kv_heads) * model.dim;
  for (int64_t r : rows) {
    const double target = r >= 512 && !bf16 ? 0.85 : 0;
    LinearShape("qkv" + in, backend(bf16), qkv, model.hidden, r, false, target);
    LinearShape("attention out" + in, backend(bf16), model.hidden, model.heads * model.dim, r, false, target);
    LinearShape("gate, up, silu" + in, backend(bf16), 2 * model.ffn, model.hidden, r, true, target);
    LinearShape("down" + in, backend(bf16), model.hidden, model.ffn, r, false, target);
  }
}

void Bench::Decode(const Model& model, Dtype dtype, int64_t rows, bool bf16) {
  // All matrices of enough layers that none is still in a cache when it is used again.
  const std::vector<std::pair<int64_t, int64_t>> shapes = {
      {(model.heads + 2 * model.kv_heads) * model.dim, model.hidden},
      {model.hidden, model.heads * model.dim},
      {2 * model.ffn, model.hidden},
      {model.hidden, model.ffn}};
  std::vector<std::unique_ptr<kernels::PackedMatrix>> weights;
  int64_t bytes = 0, widest = 0;
  while (bytes < int64_t{768} << 20) {
    for (const auto& [n, k] : shapes) {
      const Array weight(dtype, {n, k});
      weights.push_back(Value(backend(bf16).PackWeights(weight.tensor)));
      bytes += weights.back()->bytes();
      widest = std::max({widest, n, k});
    }
  }
  const Array x(backend(bf16).compute_dtype(), {rows, widest}), out(Dtype::kF32, {rows, widest});
  const Memory workspace(int64_t{64} << 20);
  const auto stream = backend(bf16).NewStream();
  const auto run = [&] {
    for (const auto& weight : weights) {
      kernels::LinearArgs args;
      args.x = x.tensor;
      args.x.sizes[1] = weight->k();
      args.weight = weight.get();
      args.out = out.tensor;
      args.out.sizes[1] = weight->n();
      args.workspace = {workspace.as<>(), workspace.bytes()};
      Check(backend(bf16).Linear(*stream, args));
    }
  };
  Share(
      absl::StrCat("decode, all matrices of ", model.name, ", weights ", kernels::DtypeName(dtype), ", ", rows, " rows",
                   bf16 ? ", in bf16" : ""),
      "GB/s", rows == 1 ? 0.8 : 0, [&] { return ceilings_.ReadGbps(bytes); },
      [&] { return Rate(static_cast<double>(bytes), run); });
}

void Bench::RunAttention(kernels::Backend& backend, const std::string& name, const Model& model,
                         const kernels::AttentionBatch& batch, double flops, double bytes) {
  const auto plan = Value(backend.Plan(batch, nullptr));
  const int64_t rows = static_cast<int64_t>(batch.positions.size());
  const Array q(Dtype::kF32, {rows, model.heads, model.dim}), out(Dtype::kF32, {rows, model.heads * model.dim}),
      lse(Dtype::kF32, {rows, model.heads});
  kernels::LinkedAttentionArgs args;
  args.plan = plan.get();
  args.params = model.attention();
  args.q = q.tensor;
  args.out = out.tensor;
  args.lse = lse.tensor;
  const Memory workspace(backend.AttentionWorkspaceBytes(*plan, args.params) + 64);
  args.workspace = {workspace.as<>(), workspace.bytes()};
  const auto stream = backend.NewStream();
  const auto run = [&] { Check(backend.LinkedAttention(*stream, args)); };
  if (rows > 1) {
    Share(
        name, "GFLOP/s", rows >= 1024 && backend.compute_dtype() == Dtype::kF32 ? 0.65 : 0,
        [&] { return Gflops(backend); }, [&] { return Rate(flops, run); }, Label(backend));
    if (batch.reads.size() == 1) return;
    int64_t tokens = 0;
    for (const kernels::KvRead& read : batch.reads) tokens += batch.segments[read.segment].tokens;
    const Array mass(Dtype::kF32, {tokens});
    const kernels::KeyMassArgs observed{args.plan, 0,    args.params, args.q,        lse.tensor,
                                        0,         rows, mass.tensor, args.workspace};
    Share(
        absl::StrCat("key mass, ", name), "GFLOP/s", 0, [&] { return Gflops(backend); },
        [&] { return Rate(flops / 2, [&] { Check(backend.KeyMass(*stream, observed)); }); }, Label(backend));
    auto previous = Value(backend.Plan(batch, nullptr));
    const double per_second = Rate(1e9, [&] { previous = Value(backend.Plan(batch, std::move(previous))); });
    report_.Add(absl::StrCat("plan, ", name), 1e6 / per_second, "us");
  } else {
    Share(
        name, "GB/s", 0, [&] { return ceilings_.ReadGbps(static_cast<int64_t>(bytes)); },
        [&] { return Rate(bytes, run); });
  }
}

kernels::Rope MakeRope(int64_t dim) {
  kernels::RopeConfig config;
  config.rotary_dim = dim;
  return Value(kernels::MakeRope(config));
}

// Causal attention of `rows` rows over the private pages they were appended to.
void Bench::Prefill(const Model& model, int64_t rows, bool bf16) {
  const int64_t pages = (rows + kBlockTokens - 1) / kBlockTokens;
  const Array kv(bf16 ? Dtype::kBf16 : Dtype::kF32, {pages, model.kv_heads, 2 * kBlockTokens, model.dim});
  const kernels::Rope rope = MakeRope(model.dim);
  std::vector<int64_t> positions(rows);
  for (int64_t i = 0; i < rows; ++i) positions[i] = i;
  const std::byte* layer = kv.memory.as<const std::byte>();
  kernels::KvSegment segment;
  segment.codec = bf16 ? Codec::kRawBf16 : Codec::kRawF32;
  segment.layer_data = {&layer, 1};
  segment.head_stride = 2 * kBlockTokens * model.dim * (bf16 ? 2 : 4);
  segment.block_stride = segment.head_stride * model.kv_heads;
  segment.tokens = rows;
  segment.padded_blocks = true;
  segment.positions = positions.data();
  kernels::KvRead read;
  read.row_count = rows;
  const kernels::Rope* ropes[] = {&rope};
  const double pairs = static_cast<double>(rows) * static_cast<double>(rows + 1) / 2;
  RunAttention(backend(bf16), absl::StrCat("causal ", rows, " rows, ", model.name, bf16 ? ", in bf16" : ""), model,
               {positions, {&segment, 1}, {&read, 1}, ropes}, pairs * 4 * static_cast<double>(model.heads * model.dim),
               0);
}

// Fresh rows after documents of `tokens` tokens each.
void Bench::Linked(const Model& model, int64_t rows, int64_t documents, int64_t tokens, Codec codec, bool bf16) {
  const SlabShape shape{codec, model.kv_heads, model.dim, tokens};
  const kernels::Rope rope = MakeRope(model.dim);
  // One document's bytes, valid in any codec; every document has its own copy.
  const Array random(codec == Codec::kRawBf16 ? Dtype::kBf16 : Dtype::kF32,
                     {shape.slab_bytes() / (codec == Codec::kRawBf16 ? 2 : 4)});
  std::vector<Memory> slabs;
  std::vector<const std::byte*> layers;
  std::vector<kernels::KvSegment> segments(documents);
  std::vector<kernels::KvRead> reads(documents);
  for (int64_t i = 0; i < documents; ++i) {
    slabs.emplace_back(shape.slab_bytes());
    if (codec != Codec::kQ8) std::memcpy(slabs.back().as<>(), random.memory.as<>(), shape.slab_bytes());
    layers.push_back(slabs.back().as<const std::byte>());
  }
  for (int64_t i = 0; i < documents; ++i) {
    segments[i].codec = codec;
    segments[i].layer_data = {&layers[i], 1};
    segments[i].head_stride = shape.head_bytes();
    segments[i].block_stride = shape.block_stride();
    segments[i].tokens = tokens;
    reads[i].segment = static_cast<int32_t>(i);
    reads[i].row_count = rows;
    reads[i].offset = i * tokens;
  }
  std::vector<int64_t> positions(rows);
  for (int64_t i = 0; i < rows; ++i) positions[i] = documents * tokens + i;
  const kernels::Rope* ropes[] = {&rope};
  const double keys = static_cast<double>(documents * tokens);
  RunAttention(backend(bf16),
               absl::StrCat("linked ", rows, " rows, ", documents, " x ", tokens, " tokens ", CodecName(codec), ", ",
                            model.name, bf16 ? ", in bf16" : ""),
               model, {positions, segments, reads, ropes},
               keys * static_cast<double>(rows) * 4 * static_cast<double>(model.heads * model.dim),
               static_cast<double>(shape.used_bytes() * documents));
}

void Bench::AttentionInBf16(const Model& model) {
  if (Value(kernels::MakeCpuBackend({.threads = 1}))->compute_dtype() != Dtype::kBf16) {
    report_.Section("LinkedAttention in bf16: skipped, this CPU or this build does not multiply it");
    return;
  }
  report_.Section(absl::StrCat("LinkedAttention in bf16, ", model.name));
  for (int64_t rows : {512, 2048}) Prefill(model, rows, /*bf16=*/true);
  for (int64_t rows : {1, 16, 64, 512}) Linked(model, rows, 15, 512, Codec::kRawBf16, /*bf16=*/true);
}

void Bench::Rows(const Model& model) {
  report_.Section(absl::StrCat("Rows and slabs, ", model.name));
  const int64_t rows = 2048, qkv_width = (model.heads + 2 * model.kv_heads) * model.dim;
  const auto stream = backend_->NewStream();
  // An operation that moves `bytes` in and out, compared with a copy of as many.
  const auto moves = [&](const std::string& name, int64_t bytes, const std::function<void()>& operation) {
    Share(
        name, "GB/s", 0, [this, bytes] { return ceilings_.MoveGbps(bytes); },
        [&] { return Rate(static_cast<double>(bytes), operation); });
  };
  const auto reads = [&](const std::string& name, int64_t bytes, const std::function<void()>& operation) {
    Share(
        name, "GB/s", 0, [this, bytes] { return ceilings_.ReadGbps(bytes); },
        [&] { return Rate(static_cast<double>(bytes), operation); });
  };
  {
    const Array residual(Dtype::kF32, {rows, model.hidden}), delta(Dtype::kF32, {rows, model.hidden}),
        weight(Dtype::kF32, {model.hidden}), out(Dtype::kF32, {rows, model.hidden});
    std::memset(delta.memory.as<>(), 0, delta.memory.bytes());
    const kernels::AddRmsNormArgs args{residual.tensor, delta.tensor, weight.tensor, 1e-5f, out.tensor};
    // Reads two and writes two of these three tensors.
    moves("AddRmsNorm", 4 * out.tensor.bytes, [&] { Check(backend_->AddRmsNorm(*stream, args)); });
  }
  const kernels::Rope rope = MakeRope(model.dim);
  const Array pages(Dtype::kF32, {rows / kBlockTokens, model.kv_heads, 2 * kBlockTokens, model.dim});
  {
    const Array qkv(Dtype::kF32, {rows, qkv_width}), q(Dtype::kF32, {rows, model.heads, model.dim});
    const Array positions(Dtype::kI64, {rows});
    for (int64_t i = 0; i < rows; ++i) positions.memory.as<int64_t>()[i] = i;
    kernels::QkvFinishArgs args;
    args.params = model.attention();
    args.qkv = qkv.tensor;
    args.rope = &rope;
    args.positions = args.slots = positions.tensor;
    args.pages = pages.tensor;
    args.q_out = q.tensor;
    moves("QkvFinish", 2 * qkv.tensor.bytes, [&] { Check(backend_->QkvFinish(*stream, args)); });
  }
  {
    const SlabShape shape{Codec::kRawBf16, model.kv_heads, model.dim, rows};
    const Array cached(Dtype::kBf16, {shape.slab_bytes() / 2}), tokens(Dtype::kI64, {rows}), out(Dtype::kF32, {rows});
    for (int64_t i = 0; i < rows; ++i) tokens.memory.as<int64_t>()[i] = i;
    const std::byte* layer = cached.memory.as<const std::byte>();
    kernels::KvDeviationArgs args;
    args.segment.layer_data = {&layer, 1};
    args.segment.codec = shape.codec, args.segment.tokens = rows;
    args.segment.head_stride = shape.head_bytes(), args.segment.block_stride = shape.block_stride();
    args.offset = 1000, args.rope = &rope;
    args.tokens = args.slots = tokens.tensor, args.pages = pages.tensor, args.out = out.tensor;
    reads("KvDeviation of raw-bf16 from f32 pages", shape.used_bytes() + pages.tensor.bytes,
          [&] { Check(backend_->KvDeviation(*stream, args)); });
  }
  std::vector<int32_t> table(rows / kBlockTokens);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  const SlabShape bf16{Codec::kRawBf16, model.kv_heads, model.dim, rows};
  const Array decoded(Dtype::kU8, {bf16.slab_bytes()});
  for (Codec codec : {Codec::kRawBf16, Codec::kQ8, Codec::kQ4}) {
    SlabShape shape = bf16;
    shape.codec = codec;
    const Array slab(Dtype::kU8, {shape.slab_bytes()});
    const kernels::PackArgs pack{shape, pages.tensor, table.data(), &rope, slab.tensor};
    moves(absl::StrCat("Pack f32 pages as ", CodecName(codec)), pages.tensor.bytes + shape.used_bytes(),
          [&] { Check(backend_->Pack(*stream, pack)); });
    const kernels::DecodeArgs decode{shape, slab.tensor, Codec::kRawBf16, &rope, decoded.tensor};
    moves(absl::StrCat("Decode ", CodecName(codec), " as raw-bf16"), shape.used_bytes() + bf16.used_bytes(),
          [&] { Check(backend_->Decode(*stream, decode)); });
  }
  {
    const Array bytes(Dtype::kU8, {int64_t{256} << 20}), out(Dtype::kU64, {1024});
    std::vector<int64_t> offsets(1024), lengths(1024, int64_t{256} << 10);
    for (int64_t i = 0; i < 1024; ++i) offsets[i] = i << 18;
    const kernels::ChecksumArgs args{bytes.tensor, offsets, lengths, out.tensor};
    reads("Checksum", bytes.tensor.bytes, [&] { Check(backend_->Checksum(*stream, args)); });
  }
  {
    const Array logits(Dtype::kF32, {16, model.vocab}), out(Dtype::kI32, {16});
    for (const bool greedy : {true, false}) {
      std::vector<kernels::SampleParams> params(16);
      for (auto& p : params) p = greedy ? kernels::SampleParams{} : kernels::SampleParams{0.8f, 40, 0.95f, 0, 1, 1};
      const Memory workspace(backend_->SampleWorkspaceBytes(16, model.vocab, 0) + 64);
      const kernels::SampleArgs args{logits.tensor, params, out.tensor, {workspace.as<>(), workspace.bytes()}};
      reads(greedy ? "Sample, greedy" : "Sample, temperature, top-k 40, top-p 0.95", logits.tensor.bytes,
            [&] { Check(backend_->Sample(*stream, args)); });
    }
  }
}

int Main(int argc, char** argv) {
  const Flags flags = Value(Flags::Parse(
      argc, argv, "Measures the CPU kernels beside ceilings of this machine: multiply-adds, reads, copies.",
      {{"threads", "N", "Threads; 0, the default: every core this process may use."},
       {"rounds", "N", "Rounds of each (default 9)."},
       {"small", "", "Leave out the shapes of Llama-3.1-8B."},
       {"only", "PART", "One of linear, decode, attention, rows (default: all)."}}));
  if (flags.help_wanted()) return 0;
  const bool small = flags.Has("small");
  const std::string only = flags.Get("only", "");
  const auto wanted = [&](absl::string_view part) { return only.empty() || only == part; };
  Bench bench(static_cast<int>(flags.GetInt("threads", 0)), static_cast<int>(flags.GetInt("rounds", 9)));
  bench.Ceilings();
  if (wanted("linear")) {
    for (const bool bf16 : {false, true}) {
      bench.Linear(kSmol, {8, 64, 512, 2048}, bf16);
      if (!small) bench.Linear(kLlama, {64, 512}, bf16);
    }
  }
  if (wanted("decode")) {
    bench.report().Section("Linear, few rows: the weights are read once");
    for (int64_t rows : {1, 4, 8}) {
      for (Dtype dtype : {Dtype::kF32, Dtype::kBf16}) bench.Decode(kSmol, dtype, rows, /*bf16=*/false);
      bench.Decode(kSmol, Dtype::kBf16, rows, /*bf16=*/true);
    }
    for (const bool bf16 : {false, true}) {
      if (!small) bench.Decode(kLlama, Dtype::kBf16, 1, bf16);
    }
  }
  if (wanted("attention")) {
    bench.report().Section("LinkedAttention in f32");
    for (int64_t rows : {512, 2048, 8192}) bench.Prefill(kSmol, rows, /*bf16=*/false);
    for (int64_t rows : {64, 1}) {
      for (Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8}) {
        bench.Linked(kSmol, rows, 15, 512, codec, /*bf16=*/false);
      }
    }
    if (!small) {
      bench.Prefill(kLlama, 2048, /*bf16=*/false);
      for (int64_t rows : {64, 1}) bench.Linked(kLlama, rows, 15, 512, Codec::kRawBf16, /*bf16=*/false);
    }
    bench.AttentionInBf16(kSmol);
    if (!small) bench.AttentionInBf16(kLlama);
  }
  if (wanted("rows")) bench.Rows(kSmol);
  return bench.report().Finish(flags.json());
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) { return kvlink::bench::Main(argc, argv); }
