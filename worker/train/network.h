// A decoder-only transformer in LibTorch: the mathematics of worker/model, differentiable, over whole sequences under
// the mask of linked attention. Documents are computed apart, so that the cost is that of a request and not that of a
// mask over everything.
//
// Thread-safety: const methods may be called concurrently; who changes a parameter excludes all others. LibTorch
// throws: call within Guarded().
#ifndef KVLINK_WORKER_TRAIN_NETWORK_H_
#define KVLINK_WORKER_TRAIN_NETWORK_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/files/weights.h"
#include "worker/train/sequence.h"
#include "worker/train/tensor.h"

namespace kvlink::train {

struct NetworkOptions {
  at::Device device = at::kCPU;
  bool bf16 = false;  // of matrix products; norms, softmax and what is added up stay f32
  // Packs of more tokens keep only each layer's input for the backward pass, which computes the rest again.
  int64_t recompute_above = 1024;
};

// x -> x * weight^T + bias, and the low-rank product beside it where there is one.
struct Matrix {
  std::string name;  // canonical: "model.layers.3.self_attn.q_proj"
  at::Tensor weight, bias;
  at::Tensor lora_a, lora_b;  // [rank, in], [out, rank]
};

// A pack of sequences, one after another, and how attention walks it. Must outlive the backward pass of what was
// computed from it.
struct Layout {
  struct Block {
    at::Tensor rows;                       // of queries
    int64_t begin = 0, end = 0;            // of keys
    std::map<int64_t, at::Tensor> hidden;  // by window (0: none), [rows, keys]: what a row does not see
  };
  at::Tensor ids;                    // clamped to the vocabulary
  at::Tensor extra_rows, extra_ids;  // rows that take row extra_ids of the extra embeddings
  at::Tensor cosine, sine;           // [rows, 1, rotary_dim]
  at::Tensor wanted;                 // rows that predict learned tokens
  at::Tensor order;                  // where each row lies in the concatenated blocks
  std::vector<Block> blocks;
};

class Network {
 public:
  // `weights` null: random, as `seed` says. INVALID_ARGUMENT for missing tensors, naming them.
  static absl::StatusOr<std::unique_ptr<Network>> Create(const model::ModelConfig& config,
                                                         const model::Weights* weights, uint64_t seed,
                                                         const NetworkOptions& options);

  const model::ModelConfig& config() const { return config_; }
  const NetworkOptions& options() const { return options_; }

  Layout LayOut(absl::Span<const Sequence* const> pack) const;
  // Hidden states after the last norm of the rows that predict learned tokens, [sum of learned, hidden], f32. `extra`:
  // embeddings of ids beyond the vocabulary, [n, hidden], or undefined.
  at::Tensor Forward(const Layout& layout, const at::Tensor& extra) const;
  // [rows, vocab], f32.
  at::Tensor Logits(const at::Tensor& hidden) const;

  // Every parameter by its canonical name ("model.layers.3.self_attn.q_proj.weight"), in a fixed order. Without
  // lm_head where embeddings are tied.
  std::vector<std::pair<std::string, at::Tensor*>> Parameters();
  // The matrices of the layers.
  std::vector<Matrix*> Matrices();
  // For a model of which nothing changes any more: with bf16, matrices are rounded now and not for each product, which
  // computes the same faster, and in less memory. Parameters() are then the rounded ones.
  void Freeze();
  // Scale of the low-rank products; 0 leaves them out.
  void set_lora_scale(double scale) { lora_scale_ = scale; }

  // One layer, as a backward pass repeats it.
  at::Tensor RunLayer(const at::Tensor& x, int64_t layer, const Layout& layout) const;

 private:
  struct Layer {
    at::Tensor input_norm, post_norm, q_norm, k_norm;
    Matrix q, k, v, output, gate, up, down;
  };
  explicit Network(const NetworkOptions& options) : options_(options) {}
  // Calls visit(name, shape, tensor) for each parameter.
  template <typename Visit>
  absl::Status Walk(const Visit& visit);
  at::Tensor Embed(const Layout& layout, const at::Tensor& extra) const;
  at::Tensor Apply(const Matrix& matrix, const at::Tensor& x) const;
  at::Tensor Norm(const at::Tensor& x, const at::Tensor& weight) const;
  at::Tensor Attend(const Layer& layer, int64_t window, const at::Tensor& x, const Layout& layout) const;

  model::ModelConfig config_;
  NetworkOptions options_;
  kernels::Rope rope_;
  double lora_scale_ = 0;
  at::Tensor embedding_, final_norm_;
  Matrix head_;  // weight undefined: the embeddings are it
  std::vector<Layer> layers_;
};

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_NETWORK_H_
