// Linked attention of a decode step, and decoding, compared with the device's own copy.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "bench/device/device_bench.h"
#include "bench/device/device_documents.h"
#include "bench/device/launch_time.h"

namespace kvlink::bench {
namespace {

using kernels::Dtype;
using kernels::Tensor;

// One row per request after `documents` documents. The `requests` x `documents` consecutive slabs are either those of
// one layer, with separate documents for every request, or those of `requests` layers, with the same documents for all
// requests in each. Either way more is read than a cache holds.
class Decode {
 public:
  static absl::StatusOr<std::unique_ptr<Decode>> Create(DeviceBench& bench, const kernels::Rope* rope, Codec codec) {
    std::unique_ptr<Decode> decode(new Decode(bench, rope));
    KVLINK_ASSIGN_OR_RETURN(const auto maker, SlabMaker::Create(bench.backend, bench.options->config, rope));
    decode->shape_ = maker->Shape(codec, bench.options->document_tokens);
    const int64_t slabs = decode->requests_ * decode->documents_, bytes = decode->shape_.slab_bytes();
    KVLINK_ASSIGN_OR_RETURN(decode->slabs_, bench.backend->Allocate(slabs * bytes));
    for (int64_t i = 0; i < slabs; ++i) {
      decode->slab_data_.push_back(static_cast<const std::byte*>(decode->slabs_.data()) + i * bytes);
      KVLINK_RETURN_IF_ERROR(
          maker->Make(decode->shape_, i, static_cast<std::byte*>(decode->slabs_.data()) + i * bytes));
    }
    const model::ModelConfig& config = bench.options->config;
    decode->row_bytes_ = config.heads * config.head_dim * 2;
    KVLINK_ASSIGN_OR_RETURN(decode->q_, bench.backend->Allocate(decode->requests_ * decode->row_bytes_));
    KVLINK_ASSIGN_OR_RETURN(decode->out_, bench.backend->Allocate(decode->requests_ * decode->row_bytes_));
    decode->stream_ = bench.backend->NewStream();
    const std::vector<uint16_t> ones(static_cast<size_t>(decode->requests_ * decode->row_bytes_ / 2), 0x3f80);
    KVLINK_RETURN_IF_ERROR(bench.backend->CopyIn(*decode->stream_, ones.data(), decode->q_.data(), decode->q_.bytes()));
    KVLINK_RETURN_IF_ERROR(decode->stream_->Synchronize());
    return decode;
  }

  // Seconds per layer.
  absl::StatusOr<double> Layer(bool shared);
  // Keys and values of all slabs.
  double bytes() const { return static_cast<double>(requests_ * documents_ * shape_.used_bytes()); }

 private:
  Decode(DeviceBench& bench, const kernels::Rope* rope)
      : bench_(bench), rope_(rope), requests_(bench.options->decoding_requests), documents_(bench.options->documents) {}

  DeviceBench& bench_;
  const kernels::Rope* const rope_;
  const int64_t requests_, documents_;
  SlabShape shape_;
  int64_t row_bytes_ = 0;
  kernels::Buffer slabs_, q_, out_, workspace_;
  std::vector<const std::byte*> slab_data_;
  std::unique_ptr<kernels::Stream> stream_;  // destroyed before the memory
};

absl::StatusOr<double> Decode::Layer(bool shared) {
  kernels::Backend& backend = *bench_.backend;
  const model::ModelConfig& config = bench_.options->config;
  const int64_t count = shared ? documents_ : requests_ * documents_, layers = shared ? requests_ : 1;
  std::vector<std::vector<const std::byte*>> data(static_cast<size_t>(count));
  std::vector<kernels::KvSegment> segments(data.size());
  std::vector<kernels::KvRead> reads;
  for (int64_t i = 0; i < count; ++i) {
    auto& mine = data[static_cast<size_t>(i)];
    for (int64_t layer = 0; layer < layers; ++layer) {
      mine.push_back(slab_data_[static_cast<size_t>(layer * count + i)]);
    }
    kernels::KvSegment& segment = segments[static_cast<size_t>(i)];
    segment.codec = shape_.codec;
    segment.layer_data = mine;
    segment.head_stride = shape_.head_bytes(), segment.block_stride = shape_.block_stride();
    segment.tokens = shape_.tokens;
    const auto read = [&](int64_t request) {
      reads.push_back({static_cast<int32_t>(i), request, 1, (i + request) % documents_ * shape_.tokens, nullptr});
    };
    if (!shared) read(i / documents_);
    for (int64_t request = 0; shared && request < requests_; ++request) read(request);
  }
  const std::vector<int64_t> positions(static_cast<size_t>(requests_), documents_ * shape_.tokens);
  const kernels::Rope* ropes[] = {rope_};
  KVLINK_ASSIGN_OR_RETURN(const auto plan, backend.Plan({positions, segments, reads, ropes}, nullptr));
  kernels::LinkedAttentionArgs args;
  args.plan = plan.get();
  args.params.heads = config.heads, args.params.kv_heads = config.kv_heads, args.params.head_dim = config.head_dim;
  args.params.scale = 1 / std::sqrt(static_cast<float>(config.head_dim));
  args.q = Tensor::Dense(q_.data(), Dtype::kBf16, backend.device(), {requests_, config.heads, config.head_dim});
  args.out = Tensor::Dense(out_.data(), Dtype::kBf16, backend.device(), {requests_, config.heads * config.head_dim});
  KVLINK_ASSIGN_OR_RETURN(workspace_,
                          backend.Allocate(std::max<int64_t>(64, backend.AttentionWorkspaceBytes(*plan, args.params))));
  args.workspace = {workspace_.data(), workspace_.bytes()};
  return LaunchSeconds(*stream_, bench_.options->rounds, [&] {
    args.layer = (args.layer + 1) % layers;
    return backend.LinkedAttention(*stream_, args);
  });
}

}  // namespace

absl::Status BenchAttention(DeviceBench& bench) {
  const DeviceBenchOptions& options = *bench.options;
  bench.report->Section(absl::StrCat("Linked attention of a decode step: ", options.decoding_requests, " requests x ",
                                     options.documents, " documents x ", options.document_tokens,
                                     " tokens, one layer"));
  KVLINK_RETURN_IF_ERROR(bench.ceilings->Measure());
  KVLINK_ASSIGN_OR_RETURN(const kernels::Rope rope, kernels::MakeRope(options.config.rope));
  for (Codec codec : {Codec::kRawBf16, Codec::kQ8}) {
    KVLINK_ASSIGN_OR_RETURN(const auto decode, Decode::Create(bench, &rope, codec));
    KVLINK_ASSIGN_OR_RETURN(const double unshared, decode->Layer(false));
    KVLINK_ASSIGN_OR_RETURN(const double shared, decode->Layer(true));
    const bool raw = codec == Codec::kRawBf16;
    const auto only_raw = [&](Target target) { return raw ? std::optional<Target>(target) : std::nullopt; };
    const std::string name = absl::StrCat("decode over ", CodecName(codec));
    bench.Add(absl::StrCat(name, ", unshared"), unshared * 1e6, "us");
    bench.Add(absl::StrCat(name, ", unshared, over copy bandwidth"), decode->bytes() / unshared / bench.rates().copied,
              "x", only_raw({0.8}));
    bench.Add(absl::StrCat(name, ", shared"), shared * 1e6, "us", only_raw({15, /*at_most=*/true}));
    bench.Add(absl::StrCat(name, ", shared, times faster"), unshared / shared, "x", only_raw({8}));
  }
  return absl::OkStatus();
}

absl::Status BenchDecode(DeviceBench& bench) {
  const DeviceBenchOptions& options = *bench.options;
  bench.report->Section(
      absl::StrCat("Decode: a slab of ", options.decoded_tokens, " tokens on the device, as raw-bf16"));
  KVLINK_RETURN_IF_ERROR(bench.ceilings->Measure());
  KVLINK_ASSIGN_OR_RETURN(const kernels::Rope rope, kernels::MakeRope(options.config.rope));
  KVLINK_ASSIGN_OR_RETURN(const auto maker, SlabMaker::Create(bench.backend, options.config, &rope));
  const SlabShape raw = maker->Shape(Codec::kRawBf16, options.decoded_tokens);
  KVLINK_ASSIGN_OR_RETURN(const kernels::Buffer out, bench.backend->Allocate(raw.slab_bytes()));
  for (Codec codec : {Codec::kQ8, Codec::kQ4}) {
    const SlabShape shape = maker->Shape(codec, options.decoded_tokens);
    KVLINK_ASSIGN_OR_RETURN(const kernels::Buffer source, bench.backend->Allocate(shape.slab_bytes()));
    KVLINK_RETURN_IF_ERROR(maker->Make(shape, 0, static_cast<std::byte*>(source.data())));
    const auto bytes = [&](const kernels::Buffer& buffer) {
      return Tensor::Dense(buffer.data(), Dtype::kU8, bench.backend->device(), {buffer.bytes()});
    };
    const kernels::DecodeArgs args{shape, bytes(source), raw.codec, &rope, bytes(out)};
    const std::unique_ptr<kernels::Stream> stream = bench.backend->NewStream();
    KVLINK_ASSIGN_OR_RETURN(const double seconds, LaunchSeconds(*stream, options.rounds,
                                                                [&] { return bench.backend->Decode(*stream, args); }));
    const double rate = static_cast<double>(shape.used_bytes() + raw.used_bytes()) / seconds;
    const std::string name = absl::StrCat("Decode ", CodecName(codec));
    bench.Add(absl::StrCat(name, ", read and written"), rate / 1e9, "GB/s");
    bench.Add(absl::StrCat(name, " over copy bandwidth"), rate / bench.rates().copied, "x", Target{0.8});
  }
  return absl::OkStatus();
}

}  // namespace kvlink::bench
