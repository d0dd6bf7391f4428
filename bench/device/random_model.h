// A random-weight model, for benches that measure the speed of its shape, not its answers.
#ifndef KVLINK_BENCH_DEVICE_RANDOM_MODEL_H_
#define KVLINK_BENCH_DEVICE_RANDOM_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/files/config.h"
#include "worker/files/weights.h"

namespace kvlink::bench {

// The shape of Llama-3.1-8B, and a toy model with all its parts.
model::ModelConfig Llama8b();
model::ModelConfig Toy();

// Numbers of the size that trained matrices have, so that activations stay finite; norms are 1. All come from one small
// table, so a model that does not fit into host memory can be loaded to a device.
class RandomWeights final : public model::Weights {
 public:
  explicit RandomWeights(model::ModelConfig config);
  const model::ModelConfig& config() const override { return config_; }
  // There is no source.
  const std::vector<model::SourceTensor>& tensors() const override { return tensors_; }
  const std::vector<std::string>& files() const override { return files_; }
  absl::string_view chat_template() const override { return ""; }
  absl::Status Read(absl::string_view canonical_name, int64_t row_begin, int64_t rows,
                    absl::Span<float> out) const override;
  bool Has(absl::string_view canonical_name) const override { return true; }

 private:
  const model::ModelConfig config_;
  const std::vector<model::SourceTensor> tensors_;
  const std::vector<std::string> files_;
  std::vector<float> table_;
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_DEVICE_RANDOM_MODEL_H_
