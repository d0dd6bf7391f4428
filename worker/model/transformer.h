// The implementation of Model, with weights in the backend's layout. Private to worker/model.
#ifndef KVLINK_WORKER_MODEL_TRANSFORMER_H_
#define KVLINK_WORKER_MODEL_TRANSFORMER_H_

#include <atomic>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "worker/model/model.h"

namespace kvlink::model {

// Buffers hold f32 vectors in the backend's memory; empty if the architecture has no such vector.
struct Layer {
  kernels::Buffer input_norm;
  std::unique_ptr<kernels::PackedMatrix> qkv;  // [(H + 2G) * D, hidden]
  kernels::Buffer qkv_bias;
  kernels::Buffer q_norm;
  kernels::Buffer k_norm;
  std::unique_ptr<kernels::PackedMatrix> output;  // [hidden, H * D]
  kernels::Buffer output_bias;
  kernels::Buffer post_norm;
  std::unique_ptr<kernels::PackedMatrix> gate_up;  // [2 * intermediate, hidden], gate first
  kernels::Buffer gate_up_bias;
  std::unique_ptr<kernels::PackedMatrix> down;  // [hidden, intermediate]
  kernels::Buffer down_bias;
};

// Whether to keep trying to record passes. Thread-safe.
class Recordings {
 public:
  static constexpr int kMaxFailures = 3;  // in a row, before giving up
  bool tried() const { return failures_.load(std::memory_order_relaxed) < kMaxFailures; }
  void Ended(const absl::Status& status) {
    MutexLock lock(&mutex_);
    if (!tried()) return;
    failures_ = status.ok() ? 0 : failures_ + 1;
    if (!tried()) why_not_ = status;
  }
  absl::Status status() const {
    MutexLock lock(&mutex_);
    return why_not_;
  }

 private:
  mutable Mutex mutex_;
  std::atomic<int> failures_{0};  // changed under mutex_
  absl::Status why_not_ ABSL_GUARDED_BY(mutex_);
};

class Transformer final : public Model {
 public:
  const ModelConfig& config() const override { return config_; }
  kernels::Backend* backend() const override { return backend_; }
  const kernels::Rope& rope() const override { return rope_; }
  std::unique_ptr<ForwardContext> NewContext() const override;
  absl::Status recording() const override { return recordings_.status(); }
  Recordings& recordings() const { return recordings_; }
  absl::Status EmbeddingRow(int32_t token, absl::Span<float> out) const override;
  absl::StatusOr<kernels::Tensor> Forward(ForwardContext& context, const ForwardBatch& batch) const override;

  const Layer& layer(int64_t index) const { return layers_[index]; }
  const kernels::Tensor& embedding_table() const { return embedding_table_; }
  const kernels::Buffer& final_norm() const { return final_norm_; }
  const kernels::PackedMatrix& head() const { return *head_; }
  kernels::AttentionParams attention_params(int64_t layer) const;

 private:
  friend class Loader;
  friend class Model;
  ModelConfig config_;
  kernels::Backend* backend_ = nullptr;
  kernels::Rope rope_;
  kernels::Buffer embedding_memory_;
  kernels::Tensor embedding_table_;  // [vocab, hidden] in the backend's compute dtype
  std::vector<Layer> layers_;
  kernels::Buffer final_norm_;
  std::unique_ptr<kernels::PackedMatrix> head_;  // [vocab, hidden]
  mutable Recordings recordings_;
};

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_MODEL_TRANSFORMER_H_
