// The checks that every backend makes when an operation is launched: dtypes, shapes, strides, devices, bytes, ranges.
// With one definition, a call accepted by one backend is accepted by all.
//
// Each function returns OK or INVALID_ARGUMENT "<operation>: <argument>: <what is wrong>" in one line, and reads no
// device memory. Tensors: rank and sizes as kernels.h says; strides >= 0, the last 1; an output's elements do not
// overlap; data aligned to the element; every element lies within `bytes`. A tensor without elements may have any data
// pointer. Thread-safety: pure functions.
#ifndef KVLINK_KERNELS_VALIDATE_H_
#define KVLINK_KERNELS_VALIDATE_H_

#include "absl/status/status.h"
#include "kernels/kernels.h"

namespace kvlink::kernels {

// `device` is the backend's. `workspace_bytes` is the result of the backend's ...WorkspaceBytes for these arguments.
absl::Status ValidateEmbed(const EmbedArgs& args, Device device);
absl::Status ValidateAddRmsNorm(const AddRmsNormArgs& args, Device device);
absl::Status ValidatePackWeights(const Tensor& weight);
absl::Status ValidateLinear(const LinearArgs& args, Device device, int64_t workspace_bytes);
absl::Status ValidateQkvFinish(const QkvFinishArgs& args, Device device);
// Checks ranges of rows, segments and reads, ascending positions, and codecs readable in place. Layers and strides of
// segments are checked at launch, when the head dimension is known.
absl::Status ValidateBatch(const AttentionBatch& batch);
// Here and in ValidateKeyMass, args.plan is ignored: `batch` is what it was made from.
absl::Status ValidateLinkedAttention(const LinkedAttentionArgs& args, const AttentionBatch& batch, Device device,
                                     int64_t workspace_bytes);
absl::Status ValidateKeyMass(const KeyMassArgs& args, const AttentionBatch& batch, Device device,
                             int64_t workspace_bytes);
absl::Status ValidateKvDeviation(const KvDeviationArgs& args, Device device);
absl::Status ValidatePack(const PackArgs& args, Device device);
absl::Status ValidateDecode(const DecodeArgs& args, Device device);
absl::Status ValidateShiftKeys(const ShiftKeysArgs& args, Device device);
absl::Status ValidateChecksum(const ChecksumArgs& args, Device device);
absl::Status ValidateSample(const SampleArgs& args, Device device, int64_t workspace_bytes);
// Its parts about one row and one adjustment; for callers that must know before they launch.
absl::Status ValidateSampleParams(const SampleParams& params);
absl::Status ValidateLogitAdjustment(const LogitAdjustment& adjustment, int64_t vocab);
absl::Status ValidateLogprobs(const LogprobsArgs& args, Device device);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_VALIDATE_H_
