// The scalar backend: each operation follows its definition, step by step. The oracle for the other backends.
#include "kernels/ref/ref.h"

#include <cstring>
#include <utility>

#include "base/status.h"
#include "kernels/ref/operations.h"
#include "kernels/ref/scalar.h"
#include "kernels/sampling.h"
#include "kernels/validate.h"

namespace kvlink::kernels {
namespace {

class RefBackend : public Backend {
 public:
  explicit RefBackend(Dtype compute) : compute_(compute) {}

  absl::string_view name() const override { return "ref"; }
  Device device() const override { return {}; }
  Dtype compute_dtype() const override { return compute_; }
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
    std::vector<float> values(static_cast<size_t>(weight.elements()));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(ref::Load(weight, static_cast<int64_t>(i)));
    }
    return std::make_unique<ref::RefMatrix>(weight.sizes[0], weight.sizes[1], std::move(values));
  }

  absl::StatusOr<std::unique_ptr<AttentionPlan>> Plan(const AttentionBatch& batch,
                                                      std::unique_ptr<AttentionPlan>) override {
    KVLINK_RETURN_IF_ERROR(ValidateBatch(batch));
    return std::make_unique<ref::RefPlan>(batch);
  }

  int64_t LinearWorkspaceBytes(int64_t, const PackedMatrix&, Epilogue) const override { return 0; }
  int64_t AttentionWorkspaceBytes(const AttentionPlan& plan, const AttentionParams& params) const override {
    return ref::AttentionWorkspaceBytes(plan.rows(), params);
  }
  int64_t SampleWorkspaceBytes(int64_t, int64_t vocab, int64_t adjusted) const override {
    return ref::SampleWorkspaceBytes(vocab, adjusted);
  }

  absl::Status Embed(Stream& stream, const EmbedArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateEmbed(args, device()));
    ref::Embed(Host(stream), args);
    return absl::OkStatus();
  }
  absl::Status AddRmsNorm(Stream&, const AddRmsNormArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateAddRmsNorm(args, device()));
    ref::AddRmsNorm(args);
    return absl::OkStatus();
  }
  absl::Status Linear(Stream&, const LinearArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateLinear(args, device(), 0));
    const auto* weight = dynamic_cast<const ref::RefMatrix*>(args.weight);
    if (weight == nullptr) return absl::InvalidArgumentError("Linear: weight: packed by another backend");
    ref::Linear(args, *weight);
    return absl::OkStatus();
  }
  absl::Status QkvFinish(Stream& stream, const QkvFinishArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateQkvFinish(args, device()));
    ref::QkvFinish(Host(stream), args);
    return absl::OkStatus();
  }
  absl::Status LinkedAttention(Stream&, const LinkedAttentionArgs& args) override {
    const auto* plan = dynamic_cast<const ref::RefPlan*>(args.plan);
    if (plan == nullptr)
      return absl::InvalidArgumentError("LinkedAttention: plan: missing, or made by another backend");
    KVLINK_RETURN_IF_ERROR(ValidateLinkedAttention(args, plan->batch(), device(),
                                                   ref::AttentionWorkspaceBytes(plan->rows(), args.params)));
    ref::LinkedAttention(args, plan->batch());
    return absl::OkStatus();
  }
  absl::Status KeyMass(Stream&, const KeyMassArgs& args) override {
    const auto* plan = dynamic_cast<const ref::RefPlan*>(args.plan);
    if (plan == nullptr) return absl::InvalidArgumentError("KeyMass: plan: missing, or made by another backend");
    KVLINK_RETURN_IF_ERROR(
        ValidateKeyMass(args, plan->batch(), device(), ref::AttentionWorkspaceBytes(plan->rows(), args.params)));
    ref::KeyMass(args, plan->batch());
    return absl::OkStatus();
  }
  absl::Status KvDeviation(Stream& stream, const KvDeviationArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateKvDeviation(args, device()));
    ref::KvDeviation(Host(stream), args);
    return absl::OkStatus();
  }
  absl::Status Pack(Stream& stream, const PackArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidatePack(args, device()));
    ref::Pack(Host(stream), args);
    return absl::OkStatus();
  }
  absl::Status Decode(Stream&, const DecodeArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateDecode(args, device()));
    ref::Decode(args);
    return absl::OkStatus();
  }
  absl::Status ShiftKeys(Stream& stream, const ShiftKeysArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateShiftKeys(args, device()));
    ref::ShiftKeys(Host(stream), args);
    return absl::OkStatus();
  }
  absl::Status Checksum(Stream&, const ChecksumArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateChecksum(args, device()));
    ref::Checksum(args);
    return absl::OkStatus();
  }
  absl::Status Sample(Stream&, const SampleArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateSample(args, device(), 0));
    const int64_t bytes = ref::SampleWorkspaceBytes(args.logits.sizes[1], AdjustedRows(args));
    KVLINK_RETURN_IF_ERROR(ValidateSample(args, device(), bytes));
    ref::Sample(args);
    return absl::OkStatus();
  }
  absl::Status Logprobs(Stream&, const LogprobsArgs& args) override {
    KVLINK_RETURN_IF_ERROR(ValidateLogprobs(args, device()));
    ref::Logprobs(args);
    return absl::OkStatus();
  }

 private:
  static HostStream& Host(Stream& stream) { return static_cast<HostStream&>(stream); }
  static absl::Status CopyHost(absl::string_view operation, const void* from, void* to, int64_t bytes) {
    if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat(operation, ": ", bytes, " bytes"));
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }

  const Dtype compute_;
};

}  // namespace

std::unique_ptr<Backend> MakeRefBackend(Dtype compute) { return std::make_unique<RefBackend>(compute); }

}  // namespace kvlink::kernels
