// Model::Load: reads tensors by their canonical names, concatenates matrices that are multiplied together, and packs
// them. Layers load in parallel.
#include <algorithm>
#include <atomic>
#include <utility>

#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "kernels/bf16.h"
#include "worker/model/transformer.h"

namespace kvlink::model {
namespace {

using kernels::Dtype;
using kernels::Tensor;

// Threads for dequantising; packing in the backend uses its own.
constexpr int kMaxLoadThreads = 8;

}  // namespace

class Loader {
 public:
  Loader(Transformer* model, const Weights& weights, const Model::Options& options)
      : model_(*model), weights_(weights), options_(options), config_(model->config_) {}

  absl::Status Run() {
    KVLINK_RETURN_IF_ERROR(LoadEmbeddings());
    model_.layers_.resize(config_.layers);
    std::vector<Thread> threads;
    const int64_t count = std::min<int64_t>(config_.layers, std::min(AvailableProcessors(), kMaxLoadThreads));
    for (int64_t i = 0; i < count; ++i) threads.emplace_back("model-load", [this] { Work(); });
    for (Thread& thread : threads) thread.Join();
    MutexLock lock(&mutex_);
    return first_error_;
  }

 private:
  void Work() {
    std::vector<float> scratch;  // reused for every matrix: the first touch of memory is slow
    for (int64_t layer = next_.fetch_add(1); layer < config_.layers; layer = next_.fetch_add(1)) {
      const absl::Status status = LoadLayer(layer, &scratch);
      MutexLock lock(&mutex_);
      if (!status.ok() && first_error_.ok()) first_error_ = status;
      if (!first_error_.ok()) return;
      ++done_;
      if (options_.progress) options_.progress(static_cast<double>(done_) / static_cast<double>(config_.layers));
    }
  }

  // Loads a vector into the backend's memory.
  absl::Status LoadVector(absl::Span<const std::pair<std::string, int64_t>> parts, kernels::Buffer* out) {
    std::vector<float> host;
    for (const auto& [name, size] : parts) {
      const size_t begin = host.size();
      host.resize(begin + size);
      KVLINK_RETURN_IF_ERROR(weights_.Read(name, 0, size, absl::MakeSpan(host).subspan(begin)));
    }
    return CopyToBackend(host.data(), static_cast<int64_t>(host.size()) * 4, out);
  }

  absl::Status CopyToBackend(const void* host, int64_t bytes, kernels::Buffer* out) {
    KVLINK_ASSIGN_OR_RETURN(*out, model_.backend_->Allocate(bytes));
    const std::unique_ptr<kernels::Stream> stream = model_.backend_->NewStream();
    KVLINK_RETURN_IF_ERROR(model_.backend_->CopyIn(*stream, host, out->data(), bytes));
    return stream->Synchronize();
  }

  // Stacks matrices [rows_i, k] and packs them as one.
  absl::StatusOr<std::unique_ptr<kernels::PackedMatrix>> LoadMatrix(
      absl::Span<const std::pair<std::string, int64_t>> parts, int64_t k, std::vector<float>* scratch) {
    int64_t rows = 0;
    for (const auto& part : parts) rows += part.second;
    if (static_cast<int64_t>(scratch->size()) < rows * k) scratch->resize(rows * k);
    const absl::Span<float> host = absl::MakeSpan(*scratch).first(rows * k);
    int64_t row = 0;
    for (const auto& [name, count] : parts) {
      KVLINK_RETURN_IF_ERROR(weights_.Read(name, 0, count, host.subspan(row * k, count * k)));
      row += count;
    }
    return model_.backend_->PackWeights(Tensor::Dense(host.data(), Dtype::kF32, {}, {rows, k}));
  }

  absl::Status LoadEmbeddings() {
    const std::string name = "model.embed_tokens.weight";
    std::vector<float> host(config_.vocab * config_.hidden);
    KVLINK_RETURN_IF_ERROR(weights_.Read(name, 0, config_.vocab, absl::MakeSpan(host)));
    const Dtype dtype = model_.backend_->compute_dtype();
    if (dtype == Dtype::kF32) {
      KVLINK_RETURN_IF_ERROR(
          CopyToBackend(host.data(), static_cast<int64_t>(host.size()) * 4, &model_.embedding_memory_));
    } else {
      std::vector<uint16_t> rounded(host.size());
      std::transform(host.begin(), host.end(), rounded.begin(), kernels::FloatToBf16);
      KVLINK_RETURN_IF_ERROR(
          CopyToBackend(rounded.data(), static_cast<int64_t>(rounded.size()) * 2, &model_.embedding_memory_));
    }
    model_.embedding_table_ = Tensor::Dense(model_.embedding_memory_.data(), dtype, model_.backend_->device(),
                                            {config_.vocab, config_.hidden});
    KVLINK_RETURN_IF_ERROR(LoadVector({{"model.norm.weight", config_.hidden}}, &model_.final_norm_));
    if (config_.tied_embeddings) {
      KVLINK_ASSIGN_OR_RETURN(model_.head_, model_.backend_->PackWeights(Tensor::Dense(
                                                host.data(), Dtype::kF32, {}, {config_.vocab, config_.hidden})));
    } else {
      KVLINK_ASSIGN_OR_RETURN(model_.head_, LoadMatrix({{"lm_head.weight", config_.vocab}}, config_.hidden, &host));
    }
    return absl::OkStatus();
  }

  absl::Status LoadLayer(int64_t index, std::vector<float>* scratch) {
    const std::string prefix = absl::StrCat("model.layers.", index, ".");
    const std::string attention = prefix + "self_attn.";
    const int64_t q = config_.heads * config_.head_dim;
    const int64_t kv = config_.kv_heads * config_.head_dim;
    Layer& layer = model_.layers_[index];
    KVLINK_RETURN_IF_ERROR(LoadVector({{prefix + "input_layernorm.weight", config_.hidden}}, &layer.input_norm));
    KVLINK_RETURN_IF_ERROR(
        LoadVector({{prefix + "post_attention_layernorm.weight", config_.hidden}}, &layer.post_norm));
    KVLINK_ASSIGN_OR_RETURN(layer.qkv, LoadMatrix({{attention + "q_proj.weight", q},
                                                   {attention + "k_proj.weight", kv},
                                                   {attention + "v_proj.weight", kv}},
                                                  config_.hidden, scratch));
    if (config_.qkv_bias) {
      KVLINK_RETURN_IF_ERROR(
          LoadVector({{attention + "q_proj.bias", q}, {attention + "k_proj.bias", kv}, {attention + "v_proj.bias", kv}},
                     &layer.qkv_bias));
    }
    if (config_.qk_norm) {
      KVLINK_RETURN_IF_ERROR(LoadVector({{attention + "q_norm.weight", config_.head_dim}}, &layer.q_norm));
      KVLINK_RETURN_IF_ERROR(LoadVector({{attention + "k_norm.weight", config_.head_dim}}, &layer.k_norm));
    }
    KVLINK_ASSIGN_OR_RETURN(layer.output, LoadMatrix({{attention + "o_proj.weight", config_.hidden}}, q, scratch));
    if (config_.output_bias) {
      KVLINK_RETURN_IF_ERROR(LoadVector({{attention + "o_proj.bias", config_.hidden}}, &layer.output_bias));
    }
    if (config_.mlp_bias) {
      KVLINK_RETURN_IF_ERROR(LoadVector(
          {{prefix + "mlp.gate_proj.bias", config_.intermediate}, {prefix + "mlp.up_proj.bias", config_.intermediate}},
          &layer.gate_up_bias));
      KVLINK_RETURN_IF_ERROR(LoadVector({{prefix + "mlp.down_proj.bias", config_.hidden}}, &layer.down_bias));
    }
    KVLINK_ASSIGN_OR_RETURN(layer.gate_up, LoadMatrix({{prefix + "mlp.gate_proj.weight", config_.intermediate},
                                                       {prefix + "mlp.up_proj.weight", config_.intermediate}},
                                                      config_.hidden, scratch));
    KVLINK_ASSIGN_OR_RETURN(
        layer.down, LoadMatrix({{prefix + "mlp.down_proj.weight", config_.hidden}}, config_.intermediate, scratch));
    return absl::OkStatus();
  }

  Transformer& model_;
  const Weights& weights_;
  const Model::Options& options_;
  const ModelConfig& config_;
  std::atomic<int64_t> next_{0};
  Mutex mutex_;
  int64_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status first_error_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<Model>> Model::Load(kernels::Backend* backend, const Weights& weights,
                                                   const Options& options) {
  auto model = std::make_unique<Transformer>();
  model->config_ = weights.config();
  KVLINK_RETURN_IF_ERROR(model->config_.Validate());
  model->backend_ = backend;
  KVLINK_ASSIGN_OR_RETURN(model->rope_, kernels::MakeRope(model->config_.rope));
  KVLINK_RETURN_IF_ERROR(Loader(model.get(), weights, options).Run());
  return model;
}

absl::Status Transformer::EmbeddingRow(int32_t token, absl::Span<float> out) const {
  if (token < 0 || token >= config_.vocab || static_cast<int64_t>(out.size()) != config_.hidden) {
    return absl::InvalidArgumentError(absl::StrCat("embedding row ", token, " of ", config_.vocab, " into ", out.size(),
                                                   " floats; the width is ", config_.hidden));
  }
  const kernels::Tensor row = embedding_table_.Slice(token, 1);
  std::vector<uint16_t> narrow(row.dtype == kernels::Dtype::kBf16 ? config_.hidden : 0);
  void* host = narrow.empty() ? static_cast<void*>(out.data()) : narrow.data();
  const std::unique_ptr<kernels::Stream> stream = backend_->NewStream();
  KVLINK_RETURN_IF_ERROR(backend_->CopyOut(*stream, row.data, host, config_.hidden * kernels::DtypeBytes(row.dtype)));
  KVLINK_RETURN_IF_ERROR(stream->Synchronize());
  for (size_t i = 0; i < narrow.size(); ++i) out[i] = kernels::Bf16ToFloat(narrow[i]);
  return absl::OkStatus();
}

}  // namespace kvlink::model
