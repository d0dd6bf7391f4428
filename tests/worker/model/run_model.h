// Runs a model over one sequence, for tests, and reads golden files.
#ifndef KVLINK_TESTS_WORKER_MODEL_RUN_MODEL_H_
#define KVLINK_TESTS_WORKER_MODEL_RUN_MODEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/files/mapped_file.h"
#include "worker/files/weights.h"
#include "worker/model/model.h"

namespace kvlink::model {

// The tensors of a safetensors file, by name.
class Golden {
 public:
  static absl::StatusOr<Golden> Open(const std::string& path);
  // Returns a copy; empty if there is no such tensor of this type.
  std::vector<int32_t> Ints(const std::string& name) const;
  std::vector<float> Floats(const std::string& name) const;

 private:
  std::unique_ptr<MappedFile> file_;
  std::map<std::string, SourceTensor> tensors_;
};

// A model and private KV for `tokens` tokens of one or more sequences.
class Runner {
 public:
  // `backend` must outlive the runner.
  static absl::StatusOr<std::unique_ptr<Runner>> Open(kernels::Backend* backend, const std::string& path,
                                                      int64_t tokens);

  const Model& model() const { return *model_; }
  KvPages* pages() { return pages_.get(); }
  ForwardContext& context() { return *context_; }

  // Appends `tokens` to `sequence` and runs them. Returns the logits of all of them, or only of the last one, on the
  // host.
  absl::StatusOr<kernels::Tensor> Run(KvSequence& sequence, absl::Span<const int32_t> tokens, bool all_logits);
  // Runs one token for each sequence in one pass; returns the logits of all.
  absl::StatusOr<kernels::Tensor> Step(absl::Span<const std::unique_ptr<KvSequence>> sequences,
                                       absl::Span<const int32_t> tokens);

 private:
  Runner() = default;
  absl::StatusOr<kernels::Tensor> Forward(const ForwardBatch& batch);

  std::unique_ptr<Model> model_;
  std::unique_ptr<KvPages> pages_;
  std::unique_ptr<ForwardContext> context_;
  std::vector<float> logits_;
};

// Row `row` of a logits tensor.
absl::Span<const float> Row(const kernels::Tensor& logits, int64_t row);
int32_t ArgMax(absl::Span<const float> values);
// Largest, mean, log-sum-exp, root mean square: the columns of the goldens' "stats".
std::vector<double> Stats(absl::Span<const float> values);
// KL(p || q) of the softmax of two rows.
double KlDivergence(absl::Span<const float> p, absl::Span<const float> q);

}  // namespace kvlink::model

#endif  // KVLINK_TESTS_WORKER_MODEL_RUN_MODEL_H_
