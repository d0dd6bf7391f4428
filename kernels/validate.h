// Checks that every backend makes when an operation is launched: dtypes, shapes, strides, devices, bytes, ranges. One
// definition, so that a call which one backend takes is a call that all take.
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

// `device` is the backend's. `workspace_bytes` is what the backend's ...WorkspaceBytes answers for these arguments.
absl::Status ValidateEmbed(const EmbedArgs& args, Device device);
absl::Status ValidateAddRmsNorm(const AddRmsNormArgs& args, Device device);
absl::Status ValidatePackWeights(const Tensor& weight);
absl::Status ValidateLinear(const LinearArgs& args, Device device, int64_t workspace_bytes);
absl::Status ValidateQkvFinish(const QkvFinishArgs& args, Device device);
// Ranges of rows, segments and reads, ascending positions, codecs readable in place. Layers and strides of a segment
// are checked at launch, when the head dimension is known.
absl::Status ValidateBatch(const AttentionBatch& batch);
// args.plan is not looked at: `batch` is what it was made from.
absl::Status ValidateLinkedAttention(const LinkedAttentionArgs& args, const AttentionBatch& batch, Device device,
                                     int64_t workspace_bytes);
absl::Status ValidatePack(const PackArgs& args, Device device);
absl::Status ValidateDecode(const DecodeArgs& args, Device device);
absl::Status ValidateShiftKeys(const ShiftKeysArgs& args, Device device);
absl::Status ValidateChecksum(const ChecksumArgs& args, Device device);
absl::Status ValidateSample(const SampleArgs& args, Device device, int64_t workspace_bytes);

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_VALIDATE_H_
