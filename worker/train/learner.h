// What learns: the trainable tensors of a mode, their gradients over a step, and AdamW.
//
// Thread-safety: one thread at a time. No header of LibTorch is needed to use it. Errors: RESOURCE_EXHAUSTED: no memory
// left; INTERNAL: whatever else LibTorch reports. After an error of Accumulate, the gradients are those of a part of
// the step.
#ifndef KVLINK_WORKER_TRAIN_LEARNER_H_
#define KVLINK_WORKER_TRAIN_LEARNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/files/weights.h"
#include "worker/train/sequence.h"
#include "worker/train/settings.h"
#include "worker/train/tensor_file.h"

namespace kvlink::train {

class Learner {
 public:
  // `weights` null: a random model of this configuration. INVALID_ARGUMENT for missing tensors, and for a device that
  // this LibTorch or this machine does not have.
  static absl::StatusOr<std::unique_ptr<Learner>> Create(const model::ModelConfig& config,
                                                         const model::Weights* weights, const Settings& settings);
  virtual ~Learner() = default;
  // Whether this LibTorch and this machine can compute on "cuda".
  static bool HasCuda();

  struct Losses {
    double divergence = 0;     // KL(teacher || student), sum over the learned tokens, nats; 0 where it is not wanted
    double cross_entropy = 0;  // sum over the learned tokens, nats
    int64_t tokens = 0;        // learned

    void Add(const Losses& more) {
      divergence += more.divergence;
      cross_entropy += more.cross_entropy;
      tokens += more.tokens;
    }
  };
  using Pack = std::vector<Lesson>;
  // How many packs it computes at the same time, each on a thread of its own: in frozen modes on the CPU, where
  // products of one pack are too small to be shared well, as many as the settings have threads; otherwise 1.
  virtual int64_t at_once() const = 0;
  // Losses of packs, summed. Accumulate also adds `weight` times the gradient of the sum of
  // settings.divergence * divergence + settings.cross_entropy * cross_entropy.
  virtual absl::StatusOr<Losses> Accumulate(absl::Span<const Pack> packs, double weight) = 0;
  virtual absl::StatusOr<Losses> Measure(absl::Span<const Pack> packs) = 0;
  // Scales the accumulated gradients down to a norm of settings.clip, makes one step of AdamW and drops them. Returns
  // their norm before that. ABORTED, leaving the tensors as they were: the norm is not finite.
  virtual absl::StatusOr<double> Step(double learning_rate) = 0;

  // The trainable tensors ("wrapper_header", "wrapper_trailer", "link_embeddings", "NAME.lora_a", or a parameter's
  // name), and those with AdamW's moments ("m.NAME", "v.NAME") and number of steps behind them.
  virtual absl::StatusOr<std::vector<NamedTensor>> Trained() const = 0;
  virtual absl::StatusOr<std::vector<NamedTensor>> State() const = 0;
  // Takes what Trained or State returned. INVALID_ARGUMENT, changing nothing, for other names or shapes.
  virtual absl::Status Set(absl::Span<const NamedTensor> tensors) = 0;

  // Every parameter of the model by its canonical name; its value, copied to the host one at a time, has the low-rank
  // products added: a merged model.
  virtual std::vector<TensorWriter::Entry> Parameters() = 0;
  virtual absl::Status ForEachParameter(const std::function<absl::Status(const NamedTensor&)>& visit) = 0;
};

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_LEARNER_H_
