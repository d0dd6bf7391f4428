// The scalar operations that implement Backend. Arguments are already validated; errors go to `stream`.
#ifndef KVLINK_KERNELS_REF_OPERATIONS_H_
#define KVLINK_KERNELS_REF_OPERATIONS_H_

#include <cstdint>
#include <vector>

#include "kernels/device/host.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::ref {

// [n, k] in f32, row by row.
class RefMatrix : public PackedMatrix {
 public:
  RefMatrix(int64_t n, int64_t k, std::vector<float> values) : n_(n), k_(k), values_(std::move(values)) {}
  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  int64_t bytes() const override { return static_cast<int64_t>(values_.size() * sizeof(float)); }
  const float* row(int64_t i) const { return values_.data() + i * k_; }

 private:
  const int64_t n_;
  const int64_t k_;
  const std::vector<float> values_;
};

class RefPlan : public AttentionPlan {
 public:
  explicit RefPlan(const AttentionBatch& batch) : batch_(batch) {}
  int64_t rows() const override { return static_cast<int64_t>(batch_.positions.size()); }
  const AttentionBatch& batch() const { return batch_; }

 private:
  const AttentionBatch batch_;
};

void Embed(HostStream& stream, const EmbedArgs& args);
void AddRmsNorm(const AddRmsNormArgs& args);
void Linear(const LinearArgs& args, const RefMatrix& weight);
void QkvFinish(HostStream& stream, const QkvFinishArgs& args);
int64_t AttentionWorkspaceBytes(int64_t rows, const AttentionParams& params);
void LinkedAttention(const LinkedAttentionArgs& args, const AttentionBatch& batch);
void KeyMass(const KeyMassArgs& args, const AttentionBatch& batch);
void KvDeviation(HostStream& stream, const KvDeviationArgs& args);
void Pack(HostStream& stream, const PackArgs& args);
void Decode(const DecodeArgs& args);
void ShiftKeys(HostStream& stream, const ShiftKeysArgs& args);
void Checksum(const ChecksumArgs& args);
int64_t SampleWorkspaceBytes(int64_t vocab, int64_t adjusted);
void Sample(const SampleArgs& args);
void Logprobs(const LogprobsArgs& args);

}  // namespace kvlink::kernels::ref

#endif  // KVLINK_KERNELS_REF_OPERATIONS_H_
