// The Backend of a device: validates, uploads the few host arrays through the stream's ring, launches. Nothing here
// allocates or waits, so every operation can be recorded into a graph.
#include "kernels/cuda/backend.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/attention_plan.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/stream.h"
#include "kernels/sampling.h"
#include "kernels/validate.h"

namespace kvlink::kernels::cuda {
namespace {

View ViewOf(const Tensor& tensor) {
  return {tensor.data, tensor.dtype == Dtype::kBf16, {tensor.strides[0], tensor.strides[1], tensor.strides[2]}};
}

const float* Floats(const Tensor& tensor) { return tensor.data == nullptr ? nullptr : tensor.as<const float>(); }

SlabView ViewOf(const SlabShape& shape, void* data) {
  SlabView view;
  view.data = static_cast<unsigned char*>(data);
  view.codec = static_cast<int>(shape.codec);
  view.kv_heads = shape.kv_heads;
  view.dim = shape.head_dim;
  view.tokens = shape.tokens;
  view.row_bytes = shape.row_bytes();
  view.head_bytes = shape.head_bytes();
  view.block_stride = shape.block_stride();
  return view;
}

CudaStream& Ours(Stream& stream) { return static_cast<CudaStream&>(stream); }

class CudaBackend : public Backend {
 public:
  CudaBackend(int device, void* upload, std::unique_ptr<Matmul> matmul)
      : device_{DeviceType::kCuda, device}, upload_(upload), linear_(std::move(matmul)) {}
  ~CudaBackend() override {
    if (UseDevice(device_.index).ok()) DestroyStream(upload_);
  }

  absl::string_view name() const override { return "cuda"; }
  Device device() const override { return device_; }
  Dtype compute_dtype() const override { return Dtype::kBf16; }
  std::unique_ptr<Stream> NewStream() override { return std::make_unique<CudaStream>(device_.index); }

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    return Take("Allocate", bytes, device_, AllocateDevice, [](void* memory, int64_t) { FreeDevice(memory); });
  }
  absl::StatusOr<Buffer> AllocateForNetwork(int64_t bytes) override {
    return Take("AllocateForNetwork", bytes, device_, AllocatePlain, [](void* memory, int64_t) { FreePlain(memory); });
  }
  absl::StatusOr<Buffer> AllocatePinned(int64_t bytes) override {
    return Take("AllocatePinned", bytes, Device{}, cuda::AllocatePinned,
                [](void* memory, int64_t) { FreePinned(memory); });
  }
  absl::Status CopyIn(Stream& stream, const void* host, void* device, int64_t bytes) override {
    return CopyChecked("CopyIn", stream, device, host, bytes);
  }
  absl::Status CopyOut(Stream& stream, const void* device, void* host, int64_t bytes) override {
    return CopyChecked("CopyOut", stream, host, device, bytes);
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> PackWeights(const Tensor& weight) override {
    KVLINK_RETURN_IF_ERROR(ValidatePackWeights(weight));
    KVLINK_RETURN_IF_ERROR(UseDevice(device_.index));
    return linear_.Pack(weight, device_, upload_);
  }

  absl::StatusOr<std::unique_ptr<AttentionPlan>> Plan(const AttentionBatch& batch,
                                                      std::unique_ptr<AttentionPlan> previous) override {
    KVLINK_RETURN_IF_ERROR(ValidateBatch(batch));
    KVLINK_RETURN_IF_ERROR(UseDevice(device_.index));
    std::unique_ptr<CudaPlan> plan(dynamic_cast<CudaPlan*>(previous.get()));
    if (plan != nullptr) {
      static_cast<void>(previous.release());
    } else {
      plan = std::make_unique<CudaPlan>();
    }
    KVLINK_RETURN_IF_ERROR(plan->Build(batch, upload_));
    return plan;
  }

  int64_t LinearWorkspaceBytes(int64_t rows, const PackedMatrix& weight, Epilogue) const override {
    return linear_.WorkspaceBytes(rows, weight);
  }
  int64_t AttentionWorkspaceBytes(const AttentionPlan& plan, const AttentionParams& params) const override {
    const auto* ours = dynamic_cast<const CudaPlan*>(&plan);
    return ours == nullptr ? 0 : cuda::AttentionWorkspaceBytes(ours->slots(), params);
  }
  int64_t SampleWorkspaceBytes(int64_t, int64_t vocab, int64_t adjusted) const override {
    return AdjustedBytes(adjusted, vocab);
  }

  absl::Status Embed(Stream& stream, const EmbedArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateEmbed(args, device_));
    if (args.ids.sizes[0] == 0) return absl::OkStatus();
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    EmbedLaunch launch;
    launch.ids = args.ids.as<const int32_t>();
    launch.table = ViewOf(args.table), launch.extra = ViewOf(args.extra), launch.out = ViewOf(args.out);
    launch.rows = args.ids.sizes[0], launch.hidden = args.table.sizes[1], launch.vocab = args.table.sizes[0];
    launch.extra_rows = args.extra.data == nullptr ? 0 : args.extra.sizes[0];
    launch.fault = ours.fault();
    return LaunchStatus("Embed", LaunchEmbed(ours.handle(), launch));
  }

  absl::Status AddRmsNorm(Stream& stream, const AddRmsNormArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateAddRmsNorm(args, device_));
    if (args.residual.sizes[0] == 0) return absl::OkStatus();
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    AddRmsNormLaunch launch;
    launch.residual = ViewOf(args.residual), launch.delta = ViewOf(args.delta), launch.out = ViewOf(args.out);
    launch.weight = args.weight.as<const float>();
    launch.rows = args.residual.sizes[0], launch.hidden = args.residual.sizes[1];
    launch.eps = args.eps;
    return LaunchStatus("AddRmsNorm", LaunchAddRmsNorm(ours.handle(), launch));
  }

  absl::Status Linear(Stream& stream, const LinearArgs& args) override {
    if (args.weight != nullptr && !cuda::Linear::Packed(*args.weight, device_)) {
      return absl::InvalidArgumentError("Linear: weight: packed by another backend");
    }
    const int64_t bytes = args.weight == nullptr ? 0 : linear_.WorkspaceBytes(args.x.sizes[0], *args.weight);
    KVLINK_RETURN_IF_ERROR(ValidateLinear(args, device_, bytes));
    if (args.x.sizes[0] == 0) return absl::OkStatus();
    KVLINK_RETURN_IF_ERROR(Ours(stream).Use());
    return linear_.Run(Ours(stream).handle(), args);
  }

  absl::Status QkvFinish(Stream& stream, const QkvFinishArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateQkvFinish(args, device_));
    if (args.qkv.sizes[0] == 0) return absl::OkStatus();
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    QkvFinishLaunch launch;
    launch.qkv = ViewOf(args.qkv), launch.pages = ViewOf(args.pages), launch.q_out = ViewOf(args.q_out);
    launch.bias = Floats(args.bias), launch.q_norm = Floats(args.q_norm), launch.k_norm = Floats(args.k_norm);
    launch.norm_eps = args.norm_eps;
    KVLINK_ASSIGN_OR_RETURN(launch.rope, ours.StageRope(*args.rope));
    launch.positions = args.positions.as<const int64_t>(), launch.slots = args.slots.as<const int64_t>();
    launch.rows = args.qkv.sizes[0], launch.heads = args.params.heads, launch.kv_heads = args.params.kv_heads;
    launch.dim = args.params.head_dim, launch.slot_count = args.pages.sizes[0] * kBlockTokens;
    launch.fault = ours.fault();
    return LaunchStatus("QkvFinish", LaunchQkvFinish(ours.handle(), launch));
  }

  absl::Status LinkedAttention(Stream& stream, const LinkedAttentionArgs& args) override {
    const auto* plan = dynamic_cast<const CudaPlan*>(args.plan);
    if (plan == nullptr) {
      return absl::InvalidArgumentError("LinkedAttention: plan: missing, or made by another backend");
    }
    // The workspace size depends on parameters that must be checked first.
    KVLINK_RETURN_IF_ERROR(ValidateLinkedAttention(args, plan->batch(), device_, 0));
    KVLINK_RETURN_IF_ERROR(ValidateLinkedAttention(args, plan->batch(), device_,
                                                   cuda::AttentionWorkspaceBytes(plan->slots(), args.params)));
    if (plan->rows() == 0) return absl::OkStatus();
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    KVLINK_RETURN_IF_ERROR(plan->Ready(ours));
    AttentionLaunch launch;
    KVLINK_RETURN_IF_ERROR(DescribeScores(ours, *plan, args.params, args.layer, args.q, args.lse, &launch));
    const AttentionParams& params = args.params;
    launch.out = ViewOf(args.out);
    launch.sinks = params.sinks;
    launch.states = static_cast<float*>(args.workspace.data);
    launch.values = launch.states == nullptr
                        ? nullptr
                        : launch.states + (plan->slots() * params.heads * 2 + 15) / 16 * 16;  // 64-byte aligned
    const int size = ItemSize(params.heads / params.kv_heads);
    for (const bool scalar : {false, true}) {
      plan->ChooseItems(scalar, size, &launch);
      if (launch.item_count == 0) continue;
      const bool tensor = !scalar && TensorAttentionHas(params.head_dim);
      KVLINK_RETURN_IF_ERROR(LaunchStatus("LinkedAttention", tensor ? LaunchTensorAttention(ours.handle(), launch)
                                                                    : LaunchScalarAttention(ours.handle(), launch)));
    }
    return LaunchStatus("LinkedAttention", LaunchMergeAttention(ours.handle(), launch));
  }

  absl::Status KeyMass(Stream& stream, const KeyMassArgs& args) override {
    const auto* plan = dynamic_cast<const CudaPlan*>(args.plan);
    if (plan == nullptr) return absl::InvalidArgumentError("KeyMass: plan: missing, or made by another backend");
    KVLINK_RETURN_IF_ERROR(ValidateKeyMass(args, plan->batch(), device_, 0));
    KVLINK_RETURN_IF_ERROR(
        ValidateKeyMass(args, plan->batch(), device_, cuda::AttentionWorkspaceBytes(plan->slots(), args.params)));
    std::vector<KeyMassRead> reads;
    int64_t tokens = 0, max_tokens = 0;
    for (size_t i = 0; i < plan->batch().reads.size(); ++i) {
      const KvRead& read = plan->batch().reads[i];
      const int64_t begin = std::max(read.row_begin, args.row_begin);
      const int64_t end = std::min(read.row_begin + read.row_count, args.row_begin + args.row_count);
      const int64_t count = plan->batch().segments[static_cast<size_t>(read.segment)].tokens;
      if (begin < end && count > 0) {
        reads.push_back(
            {tokens, read.segment, static_cast<int32_t>(i), static_cast<int32_t>(begin), static_cast<int32_t>(end)});
        max_tokens = std::max(max_tokens, count);
      }
      tokens += count;
    }
    if (reads.empty() || plan->slots() == 0) return absl::OkStatus();  // no row sees anything
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    KVLINK_RETURN_IF_ERROR(plan->Ready(ours));
    KeyMassLaunch launch;
    KVLINK_RETURN_IF_ERROR(DescribeScores(ours, *plan, args.params, args.layer, args.q, args.lse, &launch.attention));
    launch.max_blocks = (max_tokens + kBlockTokens - 1) / kBlockTokens;
    launch.mass = args.mass.as<float>();
    constexpr size_t kMost = CudaStream::kMaxStaged / sizeof(KeyMassRead);
    static_assert(kMost <= 65535, "the reads are one dimension of the grid");
    for (size_t first = 0; first < reads.size(); first += kMost) {
      const size_t count = std::min(kMost, reads.size() - first);
      KVLINK_ASSIGN_OR_RETURN(const void* staged,
                              ours.Stage(reads.data() + first, static_cast<int64_t>(count * sizeof(KeyMassRead))));
      launch.reads = static_cast<const KeyMassRead*>(staged);
      launch.read_count = static_cast<int64_t>(count);
      KVLINK_RETURN_IF_ERROR(LaunchStatus("KeyMass", LaunchKeyMass(ours.handle(), launch)));
    }
    return absl::OkStatus();
  }

  absl::Status KvDeviation(Stream& stream, const KvDeviationArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateKvDeviation(args, device_));
    if (args.out.sizes[0] == 0) return absl::OkStatus();
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    const KvSegment& segment = args.segment;
    const int64_t blocks = (segment.tokens + kBlockTokens - 1) / kBlockTokens;
    KvDeviationLaunch launch;
    if (segment.tokens > 0) {
      const SlabShape shape{segment.codec, args.pages.sizes[1], args.pages.sizes[3],
                            segment.padded_blocks ? blocks * kBlockTokens : segment.tokens};
      launch.cached = ViewOf(shape, const_cast<std::byte*>(segment.layer_data[static_cast<size_t>(args.layer)]));
      launch.cached.head_bytes = segment.head_stride, launch.cached.block_stride = segment.block_stride;
    }
    if (segment.block_table != nullptr) {
      KVLINK_ASSIGN_OR_RETURN(const void* table, ours.Stage(segment.block_table, blocks * 4));
      launch.table = static_cast<const int32_t*>(table);
    }
    launch.pages = ViewOf(args.pages);
    KVLINK_ASSIGN_OR_RETURN(launch.rope, ours.StageRope(*args.rope));
    launch.offset = args.offset;
    launch.tokens = args.tokens.as<const int64_t>(), launch.slots = args.slots.as<const int64_t>();
    launch.out = args.out.as<float>();
    launch.rows = args.out.sizes[0], launch.token_count = segment.tokens;
    launch.slot_count = args.pages.sizes[0] * kBlockTokens;
    launch.fault = ours.fault();
    return LaunchStatus("KvDeviation", LaunchKvDeviation(ours.handle(), launch));
  }

  absl::Status Pack(Stream& stream, const PackArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidatePack(args, device_));
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    PackLaunch launch;
    launch.pages = ViewOf(args.pages);
    launch.slab = ViewOf(args.shape, args.slab.data);
    launch.fault = ours.fault();
    if (!args.shape.keys_rotated()) {
      KVLINK_ASSIGN_OR_RETURN(launch.rope, ours.StageRope(*args.rope));
    }
    constexpr int64_t kMaxBlocks = CudaStream::kMaxStaged / static_cast<int64_t>(sizeof(int32_t));
    for (int64_t first = 0; first < args.shape.blocks(); first += kMaxBlocks) {
      launch.first_block = first;
      launch.blocks = std::min(kMaxBlocks, args.shape.blocks() - first);
      KVLINK_ASSIGN_OR_RETURN(const void* table, ours.Stage(args.block_table + first, launch.blocks * 4));
      launch.block_table = static_cast<const int32_t*>(table);
      KVLINK_RETURN_IF_ERROR(LaunchStatus("Pack", LaunchPack(ours.handle(), launch)));
    }
    return ClearPadding(ours, args.shape, args.slab);
  }

  absl::Status Decode(Stream& stream, const DecodeArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateDecode(args, device_));
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    SlabShape raw = args.source_shape;
    raw.codec = args.codec;
    if (args.codec == args.source_shape.codec) {
      KVLINK_RETURN_IF_ERROR(Copy(ours.handle(), args.out.data, args.source.data, raw.used_bytes()));
      return ClearPadding(ours, raw, args.out);
    }
    DecodeLaunch launch;
    launch.source = ViewOf(args.source_shape, args.source.data);
    launch.out = ViewOf(raw, args.out.data);
    if (!args.source_shape.keys_rotated()) {
      KVLINK_ASSIGN_OR_RETURN(launch.rope, ours.StageRope(*args.rope));
    }
    KVLINK_RETURN_IF_ERROR(LaunchStatus("Decode", LaunchDecode(ours.handle(), launch)));
    return ClearPadding(ours, raw, args.out);
  }

  absl::Status ShiftKeys(Stream& stream, const ShiftKeysArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateShiftKeys(args, device_));
    if (args.in.sizes[0] == 0 || args.in.sizes[1] == 0) return absl::OkStatus();
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    ShiftKeysLaunch launch;
    launch.in = ViewOf(args.in), launch.out = ViewOf(args.out);
    KVLINK_ASSIGN_OR_RETURN(launch.rope, ours.StageRope(*args.rope));
    launch.delta = args.delta;
    launch.slots = args.slots.as<const int64_t>();
    launch.tokens = args.in.sizes[0], launch.kv_heads = args.in.sizes[1], launch.dim = args.in.sizes[2];
    launch.slot_count = args.out.sizes[0];
    launch.fault = ours.fault();
    return LaunchStatus("ShiftKeys", LaunchShiftKeys(ours.handle(), launch));
  }

  absl::Status Checksum(Stream& stream, const ChecksumArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateChecksum(args, device_));
    CudaStream& ours = Ours(stream);
    KVLINK_RETURN_IF_ERROR(ours.Use());
    constexpr size_t kMost = CudaStream::kMaxStaged / 16;
    std::vector<int64_t> ranges;
    for (size_t first = 0; first < args.offsets.size(); first += kMost) {
      const size_t count = std::min(kMost, args.offsets.size() - first);
      ranges.clear();
      for (size_t i = first; i < first + count; ++i) {
        ranges.push_back(args.offsets[i]);
        ranges.push_back(args.lengths[i]);
      }
      KVLINK_ASSIGN_OR_RETURN(const void* staged, ours.Stage(ranges.data(), static_cast<int64_t>(count * 16)));
      ChecksumLaunch launch;
      launch.bytes = args.bytes.as<const unsigned char>();
      launch.ranges = static_cast<const int64_t*>(staged);
      launch.out = args.out.as<uint64_t>() + first;
      launch.count = static_cast<int64_t>(count);
      KVLINK_RETURN_IF_ERROR(LaunchStatus("Checksum", LaunchChecksum(ours.handle(), launch)));
    }
    return absl::OkStatus();
  }

  absl::Status Sample(Stream& stream, const SampleArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateSample(args, device_, 0));
    KVLINK_RETURN_IF_ERROR(ValidateSample(args, device_, AdjustedBytes(AdjustedRows(args), args.logits.sizes[1])));
    return cuda::Sample(Ours(stream), args);
  }
  absl::Status Logprobs(Stream& stream, const LogprobsArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateLogprobs(args, device_));
    return cuda::Logprobs(Ours(stream), args);
  }

 private:
  // Fills in what the scores of a plan's reads need.
  static absl::Status DescribeScores(CudaStream& stream, const CudaPlan& plan, const AttentionParams& params,
                                     int64_t layer, const Tensor& q, const Tensor& lse, AttentionLaunch* launch) {
    plan.Describe(params.rope, launch);
    if (plan.slots() > 0) {
      KVLINK_ASSIGN_OR_RETURN(launch->layer_data, plan.LayerData(stream, layer));
    }
    launch->q = ViewOf(q);
    if (lse.data != nullptr) {
      launch->lse = lse.as<float>();
      launch->lse_strides[0] = lse.strides[0], launch->lse_strides[1] = lse.strides[1];
    }
    launch->rows = plan.rows(), launch->heads = params.heads, launch->kv_heads = params.kv_heads;
    launch->dim = params.head_dim, launch->window = params.window;
    launch->scale = params.scale, launch->softcap = params.softcap;
    return absl::OkStatus();
  }
  absl::StatusOr<Buffer> Take(absl::string_view operation, int64_t bytes, Device where,
                              absl::StatusOr<void*> (*allocate)(int64_t), Buffer::Deleter give_back) {
    if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat(operation, ": ", bytes, " bytes"));
    if (bytes == 0) return Buffer();
    KVLINK_RETURN_IF_ERROR(UseDevice(device_.index));
    KVLINK_ASSIGN_OR_RETURN(void* data, allocate(bytes));
    return Buffer(data, bytes, where, give_back);
  }
  absl::Status CopyChecked(absl::string_view operation, Stream& stream, void* to, const void* from, int64_t bytes) {
    if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat(operation, ": ", bytes, " bytes"));
    if (bytes == 0) return absl::OkStatus();
    KVLINK_RETURN_IF_ERROR(Ours(stream).Use());
    return Copy(Ours(stream).handle(), to, from, bytes);
  }
  static absl::Status ClearPadding(CudaStream& stream, const SlabShape& shape, const Tensor& slab) {
    const int64_t used = shape.used_bytes();
    return Fill(stream.handle(), slab.as<std::byte>() + used, 0, shape.slab_bytes() - used);
  }

  const Device device_;
  void* const upload_;  // for weights and plans
  const cuda::Linear linear_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(int device) {
  KVLINK_RETURN_IF_ERROR(OpenDevice(device));
  KVLINK_RETURN_IF_ERROR(UseDevice(device));
  KVLINK_ASSIGN_OR_RETURN(std::unique_ptr<Matmul> matmul, MakeMatmul());
  KVLINK_ASSIGN_OR_RETURN(void* upload, CreateStream());
  return std::make_unique<CudaBackend>(device, upload, std::move(matmul));
}

}  // namespace kvlink::kernels::cuda
