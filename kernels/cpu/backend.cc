// The CPU Backend: validates, then calls the operation. Streams execute operations at once.
#include "kernels/cpu/backend.h"

#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/attention/attention_plan.h"
#include "kernels/cpu/bf16/amx.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/linear/linear.h"
#include "kernels/cpu/operations.h"
#include "kernels/cpu/threads.h"
#include "kernels/device/host.h"
#include "kernels/sampling.h"
#include "kernels/validate.h"

namespace kvlink::kernels {
namespace {

class CpuBackend : public Backend {
 public:
  CpuBackend(const cpu::Threads& threads, const cpu::Arithmetic& arithmetic)
      : threads_(threads),
        bf16_(arithmetic.bf16),
        tiles_(arithmetic.tiles),
        linear_(threads, arithmetic.bf16, arithmetic.pairs) {}

  absl::string_view name() const override { return "cpu"; }
  Device device() const override { return {}; }
  Dtype compute_dtype() const override { return bf16_ ? Dtype::kBf16 : Dtype::kF32; }
  std::unique_ptr<Stream> NewStream() override { return std::make_unique<HostStream>(); }
  absl::StatusOr<Buffer> Allocate(int64_t bytes) override { return AllocateHost(bytes); }
  absl::StatusOr<Buffer> AllocatePinned(int64_t bytes) override { return AllocateHost(bytes); }

  absl::Status CopyIn(Stream&, const void* host, void* device, int64_t bytes) override {
    return CopyHost("CopyIn", host, device, bytes);
  }
  absl::Status CopyOut(Stream&, const void* device, void* host, int64_t bytes) override {
    return CopyHost("CopyOut", device, host, bytes);
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> PackWeights(const Tensor& weight) override {
    KVLINK_RETURN_IF_ERROR(ValidatePackWeights(weight));
    return linear_.Pack(weight);
  }

  absl::StatusOr<std::unique_ptr<AttentionPlan>> Plan(const AttentionBatch& batch,
                                                      std::unique_ptr<AttentionPlan> previous) override {
    KVLINK_RETURN_IF_ERROR(ValidateBatch(batch));
    for (const KvSegment& segment : batch.segments) {
      if (segment.tokens > std::numeric_limits<int32_t>::max() / 2) {
        return absl::InvalidArgumentError(absl::StrCat("Plan: a segment of ", segment.tokens, " tokens is too long"));
      }
    }
    std::unique_ptr<cpu::CpuPlan> plan(dynamic_cast<cpu::CpuPlan*>(previous.get()));
    if (plan != nullptr) {
      static_cast<void>(previous.release());
    } else {
      plan = std::make_unique<cpu::CpuPlan>();
    }
    plan->Build(batch, threads_);
    return plan;
  }

  int64_t LinearWorkspaceBytes(int64_t rows, const PackedMatrix& weight, Epilogue epilogue) const override {
    return linear_.WorkspaceBytes(rows, weight, epilogue);
  }
  int64_t AttentionWorkspaceBytes(const AttentionPlan& plan, const AttentionParams& params) const override {
    const auto* ours = dynamic_cast<const cpu::CpuPlan*>(&plan);
    return ours == nullptr ? 0 : cpu::AttentionWorkspaceBytes(*ours, params, threads_, tiles_);
  }
  int64_t SampleWorkspaceBytes(int64_t rows, int64_t vocab, int64_t adjusted) const override {
    return cpu::SampleWorkspaceBytes(rows, vocab, adjusted, threads_);
  }

  absl::Status Embed(Stream& stream, const EmbedArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateEmbed(args, device()));
    cpu::Embed(Host(stream), args, threads_);
    return absl::OkStatus();
  }
  absl::Status AddRmsNorm(Stream&, const AddRmsNormArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateAddRmsNorm(args, device()));
    cpu::AddRmsNorm(args, threads_);
    return absl::OkStatus();
  }
  absl::Status Linear(Stream& stream, const LinearArgs& args) override {
    if (args.weight != nullptr && !linear_.Packed(*args.weight)) {
      return absl::InvalidArgumentError("Linear: weight: packed by another backend");
    }
    const int64_t bytes =
        args.weight == nullptr ? 0 : linear_.WorkspaceBytes(args.x.sizes[0], *args.weight, args.epilogue);
    KVLINK_RETURN_IF_ERROR(ValidateLinear(args, device(), bytes));
    Host(stream).Fail(linear_.Run(args));
    return absl::OkStatus();
  }
  absl::Status QkvFinish(Stream& stream, const QkvFinishArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateQkvFinish(args, device()));
    cpu::QkvFinish(Host(stream), args, threads_);
    return absl::OkStatus();
  }
  absl::Status LinkedAttention(Stream&, const LinkedAttentionArgs& args) override {
    const auto* plan = dynamic_cast<const cpu::CpuPlan*>(args.plan);
    if (plan == nullptr) {
      return absl::InvalidArgumentError("LinkedAttention: plan: missing, or made by another backend");
    }
    // The workspace size depends on parameters that must be checked first.
    KVLINK_RETURN_IF_ERROR(ValidateLinkedAttention(args, plan->batch(), device(), 0));
    KVLINK_RETURN_IF_ERROR(ValidateLinkedAttention(args, plan->batch(), device(),
                                                   cpu::AttentionWorkspaceBytes(*plan, args.params, threads_, tiles_)));
    cpu::LinkedAttention(*plan, args, threads_, tiles_);
    return absl::OkStatus();
  }
  absl::Status KeyMass(Stream&, const KeyMassArgs& args) override {
    const auto* plan = dynamic_cast<const cpu::CpuPlan*>(args.plan);
    if (plan == nullptr) return absl::InvalidArgumentError("KeyMass: plan: missing, or made by another backend");
    // As above.
    KVLINK_RETURN_IF_ERROR(ValidateKeyMass(args, plan->batch(), device(), 0));
    KVLINK_RETURN_IF_ERROR(ValidateKeyMass(args, plan->batch(), device(),
                                           cpu::AttentionWorkspaceBytes(*plan, args.params, threads_, tiles_)));
    cpu::KeyMass(*plan, args, threads_, tiles_);
    return absl::OkStatus();
  }
  absl::Status KvDeviation(Stream& stream, const KvDeviationArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateKvDeviation(args, device()));
    cpu::KvDeviation(Host(stream), args, threads_);
    return absl::OkStatus();
  }
  absl::Status Pack(Stream& stream, const PackArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidatePack(args, device()));
    cpu::Pack(Host(stream), args, threads_);
    return absl::OkStatus();
  }
  absl::Status Decode(Stream&, const DecodeArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateDecode(args, device()));
    cpu::Decode(args, threads_);
    return absl::OkStatus();
  }
  absl::Status ShiftKeys(Stream& stream, const ShiftKeysArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateShiftKeys(args, device()));
    cpu::ShiftKeys(Host(stream), args, threads_);
    return absl::OkStatus();
  }
  absl::Status Checksum(Stream&, const ChecksumArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateChecksum(args, device()));
    cpu::Checksum(args, threads_);
    return absl::OkStatus();
  }
  absl::Status Sample(Stream&, const SampleArgs& args) override {
    const int64_t rows = static_cast<int64_t>(args.params.size());
    KVLINK_RETURN_IF_ERROR(ValidateSample(args, device(), 0));
    const int64_t bytes = SampleWorkspaceBytes(rows, args.logits.sizes[1], AdjustedRows(args));
    KVLINK_RETURN_IF_ERROR(ValidateSample(args, device(), bytes));
    cpu::Sample(args, threads_);
    return absl::OkStatus();
  }
  absl::Status Logprobs(Stream&, const LogprobsArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateLogprobs(args, device()));
    cpu::Logprobs(args, threads_);
    return absl::OkStatus();
  }

 private:
  static HostStream& Host(Stream& stream) { return static_cast<HostStream&>(stream); }
  static absl::Status CopyHost(absl::string_view operation, const void* from, void* to, int64_t bytes) {
    if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat(operation, ": ", bytes, " bytes"));
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }

  const cpu::Threads threads_;
  const bool bf16_;
  const cpu::MultiplyTiles tiles_;
  const cpu::Linear linear_;
};

// Whether oneDNN multiplies in AMX.
bool DnnlHasAmx() {
#ifdef KVLINK_HAVE_DNNL
  return cpu::HasAmx();
#else
  return false;
#endif
}

// Whether bf16 is the faster type: only if the CPU multiplies it; otherwise Linear emulates it.
bool PrefersBf16() { return DnnlHasAmx() || cpu::HasAvx512Bf16(); }

// AMX where there is any, otherwise AVX512_BF16.
cpu::Arithmetic InBf16() {
  cpu::Arithmetic arithmetic{.bf16 = true, .tiles = cpu::AmxMultiply()};
  if (arithmetic.tiles == nullptr) arithmetic.tiles = cpu::Avx512Bf16Multiply();
  if (!DnnlHasAmx()) arithmetic.pairs = cpu::Avx512Bf16MultiplyPairs();
  return arithmetic;
}

}  // namespace

std::unique_ptr<Backend> cpu::MakeBackend(const Threads& threads, const Arithmetic& arithmetic) {
  return std::make_unique<CpuBackend>(threads, arithmetic);
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.threads, " threads; use 1 to ", kMaxThreads, ", or 0 for one per core"));
  }
  const cpu::Threads threads(options.threads == 0 ? cpu::Threads::Available() : options.threads);
  const bool bf16 =
      options.compute == CpuOptions::Compute::kBf16 || (options.compute == CpuOptions::Compute::kAuto && PrefersBf16());
  return cpu::MakeBackend(threads, bf16 ? InBf16() : cpu::Arithmetic{});
}

}  // namespace kvlink::kernels
