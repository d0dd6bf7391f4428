// Model: packed weights and the forward pass. Loading is in transformer_load.cc.
#include "worker/model/transformer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/status.h"
#include "kernels/device/graph.h"

namespace kvlink::model {
namespace {

using kernels::Dtype;
using kernels::Tensor;

// One caller's stream and scratch memory. Buffers only grow.
class Context final : public ForwardContext {
 public:
  explicit Context(kernels::Backend* backend) : backend_(backend), stream(backend->NewStream()) {}

  absl::StatusOr<Tensor> Scratch(int slot, Dtype dtype, absl::Span<const int64_t> sizes) {
    int64_t bytes = kernels::DtypeBytes(dtype);
    for (int64_t size : sizes) bytes *= size;
    if (static_cast<size_t>(slot) >= buffers_.size()) buffers_.resize(slot + 1);
    if (buffers_[slot].bytes() < bytes) {
      buffers_[slot].reset();
      KVLINK_ASSIGN_OR_RETURN(buffers_[slot], backend_->Allocate(bytes + bytes / 4));
    }
    return Tensor::Dense(buffers_[slot].data(), dtype, backend_->device(), sizes);
  }

  // Call only while nothing runs.
  absl::Status ReserveWorkspace(int64_t bytes) {
    if (workspace_.bytes() >= bytes) return absl::OkStatus();
    workspace_.reset();
    KVLINK_ASSIGN_OR_RETURN(workspace_, backend_->Allocate(bytes + bytes / 4));
    return absl::OkStatus();
  }
  kernels::Workspace workspace() const { return {workspace_.data(), workspace_.bytes()}; }

  // Returns the slot for the graph of passes of this shape. nullptr for the first pass of a shape: it runs directly, so
  // that whatever a device initialises on first use is in place.
  std::unique_ptr<kernels::Graph>* GraphOf(const std::array<int64_t, 3>& shape) {
    const auto found = std::find_if(shapes_.begin(), shapes_.end(), [&](const Shape& s) { return s.shape == shape; });
    if (found != shapes_.end()) {
      std::rotate(found, found + 1, shapes_.end());
      return &shapes_.back().graph;
    }
    if (shapes_.size() == kMaxGraphs) shapes_.erase(shapes_.begin());
    shapes_.push_back({shape, nullptr});
    return nullptr;
  }
  Graphs& counts() { return graphs_; }

 private:
  struct Shape {
    std::array<int64_t, 3> shape;
    std::unique_ptr<kernels::Graph> graph;
  };
  static constexpr size_t kMaxGraphs = 8;  // each takes some device memory
  kernels::Backend* const backend_;
  std::vector<kernels::Buffer> buffers_;
  kernels::Buffer workspace_;
  std::vector<Shape> shapes_;  // least recently used first

 public:
  const std::unique_ptr<kernels::Stream> stream;
  std::unique_ptr<kernels::AttentionPlan> plan;
  std::vector<int32_t> wanted_rows;
  std::vector<float> zeros;
};

enum ScratchSlot {
  kIds,
  kPositions,
  kSlots,
  kResidual,
  kNormed,
  kQkv,
  kQuery,
  kAttention,
  kGated,
  kDelta,
  kLogits,
  kWantedRows,
  kWantedResidual,
  kWantedAttention,
  kLse,
  kMass
};

Tensor VectorOf(const kernels::Buffer& buffer, kernels::Device device) {
  if (buffer.data() == nullptr) return {};
  return Tensor::Dense(buffer.data(), Dtype::kF32, device, {buffer.bytes() / 4});
}

absl::Status CheckBatch(const ForwardBatch& batch, const ModelConfig& config) {
  const size_t rows = batch.tokens.size();
  if (rows == 0) return absl::InvalidArgumentError("forward pass without tokens");
  if (batch.positions.size() != rows || batch.slots.size() != rows) {
    return absl::InvalidArgumentError(absl::StrCat("forward pass of ", rows, " tokens has ", batch.positions.size(),
                                                   " positions and ", batch.slots.size(), " slots"));
  }
  if (batch.pages == nullptr) return absl::InvalidArgumentError("forward pass without private KV pages");
  if (static_cast<int64_t>(batch.pages->layer_data().size()) != config.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("private KV of ", batch.pages->layer_data().size(), " layers for a model of ", config.layers));
  }
  const int64_t extra = batch.extra_embeddings.data == nullptr ? 0 : batch.extra_embeddings.sizes[0];
  for (int32_t token : batch.tokens) {
    if (token < 0 || token >= config.vocab + extra) {
      return absl::InvalidArgumentError(absl::StrCat("token ", token, " is outside the vocabulary of ", config.vocab,
                                                     " and ", extra, " extra embeddings"));
    }
  }
  const int64_t slots = batch.pages->total_pages() * kBlockTokens;
  for (int64_t slot : batch.slots) {
    if (slot < 0 || slot >= slots) return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " of ", slots));
  }
  int64_t last = -1;
  for (int64_t row : batch.logits_rows) {
    if (row <= last || row >= static_cast<int64_t>(rows)) {
      return absl::InvalidArgumentError(absl::StrCat("logits row ", row, " after ", last, " of ", rows, " rows"));
    }
    last = row;
  }
  if (batch.layers < 0 || batch.layers > config.layers || (batch.layers > 0 && !batch.logits_rows.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("forward pass through ", batch.layers, " of ", config.layers,
                                                   " layers, for ", batch.logits_rows.size(), " rows of logits"));
  }
  const ForwardBatch::KeyMass& observed = batch.key_mass;
  if (observed.mass != nullptr && (observed.row_begin < 0 || observed.row_count < 0 ||
                                   observed.row_begin + observed.row_count > static_cast<int64_t>(rows))) {
    return absl::InvalidArgumentError(absl::StrCat("forward pass that observes ", observed.row_count, " rows from ",
                                                   observed.row_begin, " of ", rows));
  }
  return absl::OkStatus();
}

// One forward pass: the tensors of the batch and the steps over them.
class Pass {
 public:
  Pass(const Transformer& model, Context& context, const ForwardBatch& batch)
      : model_(model),
        context_(context),
        batch_(batch),
        config_(model.config()),
        backend_(*model.backend()),
        rows_(static_cast<int64_t>(batch.tokens.size())),
        last_((batch.layers == 0 ? config_.layers : batch.layers) - 1) {}

  absl::StatusOr<Tensor> Run() {
    KVLINK_RETURN_IF_ERROR(CheckBatch(batch_, config_));
    const absl::Status launched = Launch();
    // Wait even after an error: launched work still reads the caller's memory.
    const absl::Status finished = context_.stream->Synchronize();
    KVLINK_RETURN_IF_ERROR(launched);
    KVLINK_RETURN_IF_ERROR(finished);
    return logits_;
  }

 private:
  absl::Status Launch() {
    KVLINK_RETURN_IF_ERROR(Prepare());
    const bool whole = batch_.layers == 0 && !observed();
    const bool recorded = rows_ <= batch_.graph_rows && whole && model_.recordings().tried();
    kernels::GraphStream* const stream = recorded ? kernels::GraphStream::Of(*context_.stream) : nullptr;
    if (stream == nullptr) return LaunchLayers(batch_.before_layer);
    const auto wanted = static_cast<int64_t>(batch_.logits_rows.size());
    std::unique_ptr<kernels::Graph>* const graph = context_.GraphOf({rows_, wanted, scattered()});
    if (graph == nullptr) return LaunchLayers(batch_.before_layer);
    const absl::Status launched = LaunchGraph(*stream, graph);
    model_.recordings().Ended(launched);
    ++(launched.ok() ? context_.counts().launched : context_.counts().failed);
    if (launched.ok()) return launched;
    return LaunchLayers(batch_.before_layer);
  }

  absl::Status LaunchGraph(kernels::GraphStream& stream, std::unique_ptr<kernels::Graph>* graph) {
    KVLINK_RETURN_IF_ERROR(stream.BeginCapture());
    const absl::Status recorded = LaunchLayers(nullptr);
    if (recorded.ok()) return stream.EndCapture(graph);
    stream.DropCapture();
    return recorded;
  }

  // Everything after Prepare(). Allocates nothing, waits for nothing, and can be repeated.
  absl::Status LaunchLayers(const std::function<absl::Status(int64_t)>& before_layer) {
    residual_ = all_residual_;
    attention_ = all_attention_;
    KVLINK_RETURN_IF_ERROR(
        backend_.Embed(*context_.stream, {ids_, model_.embedding_table(), batch_.extra_embeddings, residual_}));
    bool pending = false;  // delta_ holds the previous layer's output, not yet added
    for (int64_t layer = 0; layer <= last_; ++layer) {
      KVLINK_RETURN_IF_ERROR(Attend(layer, pending, before_layer));
      if (layer == last_) break;
      KVLINK_RETURN_IF_ERROR(FeedForward(layer, 0, rows_));
      pending = true;
    }
    if (observed()) {
      KVLINK_RETURN_IF_ERROR(backend_.CopyOut(*context_.stream, mass_.data, batch_.key_mass.mass->data(), mass_.bytes));
    }
    return batch_.logits_rows.empty() ? absl::OkStatus() : Finish();
  }

  absl::Status Prepare() {
    const Dtype compute = backend_.compute_dtype();
    const int64_t qkv = (config_.heads + 2 * config_.kv_heads) * config_.head_dim;
    KVLINK_ASSIGN_OR_RETURN(ids_, context_.Scratch(kIds, Dtype::kI32, {rows_}));
    KVLINK_ASSIGN_OR_RETURN(positions_, context_.Scratch(kPositions, Dtype::kI64, {rows_}));
    KVLINK_ASSIGN_OR_RETURN(slots_, context_.Scratch(kSlots, Dtype::kI64, {rows_}));
    KVLINK_ASSIGN_OR_RETURN(all_residual_, context_.Scratch(kResidual, Dtype::kF32, {rows_, config_.hidden}));
    KVLINK_ASSIGN_OR_RETURN(normed_, context_.Scratch(kNormed, compute, {rows_, config_.hidden}));
    KVLINK_ASSIGN_OR_RETURN(qkv_, context_.Scratch(kQkv, compute, {rows_, qkv}));
    KVLINK_ASSIGN_OR_RETURN(query_, context_.Scratch(kQuery, compute, {rows_, config_.heads, config_.head_dim}));
    KVLINK_ASSIGN_OR_RETURN(all_attention_,
                            context_.Scratch(kAttention, compute, {rows_, config_.heads * config_.head_dim}));
    KVLINK_ASSIGN_OR_RETURN(gated_, context_.Scratch(kGated, compute, {rows_, config_.intermediate}));
    KVLINK_ASSIGN_OR_RETURN(delta_, context_.Scratch(kDelta, compute, {rows_, config_.hidden}));
    KVLINK_ASSIGN_OR_RETURN(
        logits_,
        context_.Scratch(kLogits, Dtype::kF32, {static_cast<int64_t>(batch_.logits_rows.size()), config_.vocab}));
    KVLINK_RETURN_IF_ERROR(backend_.CopyIn(*context_.stream, batch_.tokens.data(), ids_.data, ids_.bytes));
    KVLINK_RETURN_IF_ERROR(
        backend_.CopyIn(*context_.stream, batch_.positions.data(), positions_.data, positions_.bytes));
    KVLINK_RETURN_IF_ERROR(backend_.CopyIn(*context_.stream, batch_.slots.data(), slots_.data, slots_.bytes));
    if (scattered()) KVLINK_RETURN_IF_ERROR(PrepareWanted());
    rope_ = &model_.rope();
    const kernels::AttentionBatch attention{batch_.positions, batch_.segments, batch_.reads, {&rope_, 1}};
    KVLINK_ASSIGN_OR_RETURN(context_.plan, backend_.Plan(attention, std::move(context_.plan)));
    if (observed()) KVLINK_RETURN_IF_ERROR(PrepareMass());
    return context_.ReserveWorkspace(WorkspaceBytes());
  }

  // The largest workspace of any operation of the pass.
  int64_t WorkspaceBytes() const {
    using kernels::Epilogue;
    const auto wanted = static_cast<int64_t>(batch_.logits_rows.size());
    int64_t bytes = wanted == 0 ? 0 : backend_.LinearWorkspaceBytes(wanted, model_.head(), Epilogue::kNone);
    for (int64_t index = 0; index <= last_; ++index) {
      const Layer& layer = model_.layer(index);
      bytes = std::max({bytes, backend_.LinearWorkspaceBytes(rows_, *layer.qkv, Epilogue::kNone),
                        backend_.LinearWorkspaceBytes(rows_, *layer.output, Epilogue::kNone),
                        backend_.LinearWorkspaceBytes(rows_, *layer.gate_up, Epilogue::kSiluMul),
                        backend_.LinearWorkspaceBytes(rows_, *layer.down, Epilogue::kNone),
                        backend_.AttentionWorkspaceBytes(*context_.plan, model_.attention_params(index))});
    }
    return bytes;
  }

  absl::Status Linear(const Tensor& x, const kernels::PackedMatrix& weight, const kernels::Buffer* bias,
                      kernels::Epilogue epilogue, const Tensor& out) {
    const Tensor bias_tensor = bias == nullptr ? Tensor{} : VectorOf(*bias, backend_.device());
    return backend_.Linear(*context_.stream, {x, &weight, bias_tensor, epilogue, out, context_.workspace()});
  }

  absl::Status Norm(const kernels::Buffer& weight, bool add, int64_t begin, int64_t count) {
    return backend_.AddRmsNorm(
        *context_.stream,
        {residual_.Slice(begin, count), add ? delta_.Slice(begin, count) : Tensor{},
         VectorOf(weight, backend_.device()), static_cast<float>(config_.rms_eps), normed_.Slice(begin, count)});
  }

  // Norm, QKV, keys and values to their pages, attention over everything the rows see. Without logits nothing is needed
  // beyond the last layer's keys and values, except to observe it.
  absl::Status Attend(int64_t index, bool pending, const std::function<absl::Status(int64_t)>& before_layer) {
    const Layer& layer = model_.layer(index);
    KVLINK_RETURN_IF_ERROR(Norm(layer.input_norm, pending, 0, rows_));
    KVLINK_RETURN_IF_ERROR(Linear(normed_, *layer.qkv, nullptr, kernels::Epilogue::kNone, qkv_));
    kernels::QkvFinishArgs finish;
    finish.params = model_.attention_params(index);
    finish.qkv = qkv_;
    finish.bias = VectorOf(layer.qkv_bias, backend_.device());
    finish.q_norm = VectorOf(layer.q_norm, backend_.device());
    finish.k_norm = VectorOf(layer.k_norm, backend_.device());
    finish.norm_eps = static_cast<float>(config_.rms_eps);
    finish.rope = &model_.rope();
    finish.positions = positions_;
    finish.slots = slots_;
    finish.pages = batch_.pages->layer(index);
    finish.q_out = query_;
    KVLINK_RETURN_IF_ERROR(backend_.QkvFinish(*context_.stream, finish));
    if (index == last_ && batch_.logits_rows.empty() && !observed()) return absl::OkStatus();
    if (before_layer) KVLINK_RETURN_IF_ERROR(before_layer(index));
    kernels::LinkedAttentionArgs attention;
    attention.plan = context_.plan.get();
    attention.layer = index;
    attention.params = finish.params;
    attention.q = query_;
    attention.out = attention_;
    attention.lse = lse_;
    attention.workspace = context_.workspace();
    KVLINK_RETURN_IF_ERROR(backend_.LinkedAttention(*context_.stream, attention));
    if (!observed()) return absl::OkStatus();
    kernels::KeyMassArgs mass;
    mass.plan = attention.plan;
    mass.layer = index;
    mass.params = attention.params;
    mass.q = query_;
    mass.lse = lse_;
    mass.row_begin = batch_.key_mass.row_begin;
    mass.row_count = batch_.key_mass.row_count;
    mass.mass = mass_;
    mass.workspace = context_.workspace();
    return backend_.KeyMass(*context_.stream, mass);
  }

  // Output projection and MLP of rows [begin, begin + count); leaves the layer's last addend in delta_.
  absl::Status FeedForward(int64_t index, int64_t begin, int64_t count) {
    const Layer& layer = model_.layer(index);
    const Tensor delta = delta_.Slice(begin, count);
    KVLINK_RETURN_IF_ERROR(
        Linear(attention_.Slice(begin, count), *layer.output, &layer.output_bias, kernels::Epilogue::kNone, delta));
    KVLINK_RETURN_IF_ERROR(Norm(layer.post_norm, true, begin, count));
    const Tensor gated = gated_.Slice(begin, count);
    KVLINK_RETURN_IF_ERROR(
        Linear(normed_.Slice(begin, count), *layer.gate_up, &layer.gate_up_bias, kernels::Epilogue::kSiluMul, gated));
    return Linear(gated, *layer.down, &layer.down_bias, kernels::Epilogue::kNone, delta);
  }

  // The last layer's second half, final norm and output matrix, only for the rows whose logits are requested.
  absl::Status Finish() {
    const absl::Span<const int64_t> wanted = batch_.logits_rows;
    const auto count = static_cast<int64_t>(wanted.size());
    int64_t begin = wanted.front();
    if (scattered()) {
      KVLINK_RETURN_IF_ERROR(GatherWanted());
      begin = 0;
    }
    KVLINK_RETURN_IF_ERROR(FeedForward(last_, begin, count));
    KVLINK_RETURN_IF_ERROR(Norm(model_.final_norm(), true, begin, count));
    return Linear(normed_.Slice(begin, count), model_.head(), nullptr, kernels::Epilogue::kNone, logits_);
  }

  bool observed() const { return batch_.key_mass.mass != nullptr; }

  absl::Status PrepareMass() {
    int64_t tokens = 0;
    for (const kernels::KvRead& read : batch_.reads) tokens += batch_.segments[read.segment].tokens;
    batch_.key_mass.mass->resize(tokens);
    context_.zeros.assign(tokens, 0);
    KVLINK_ASSIGN_OR_RETURN(lse_, context_.Scratch(kLse, Dtype::kF32, {rows_, config_.heads}));
    KVLINK_ASSIGN_OR_RETURN(mass_, context_.Scratch(kMass, Dtype::kF32, {tokens}));
    return backend_.CopyIn(*context_.stream, context_.zeros.data(), mass_.data, mass_.bytes);
  }

  bool scattered() const {
    const absl::Span<const int64_t> wanted = batch_.logits_rows;
    return !wanted.empty() && wanted.back() - wanted.front() + 1 != static_cast<int64_t>(wanted.size());
  }

  absl::Status PrepareWanted() {
    const auto count = static_cast<int64_t>(batch_.logits_rows.size());
    const std::array<int64_t, 2> sizes = {count, config_.heads * config_.head_dim};
    context_.wanted_rows.assign(batch_.logits_rows.begin(), batch_.logits_rows.end());
    KVLINK_ASSIGN_OR_RETURN(wanted_, context_.Scratch(kWantedRows, Dtype::kI32, {count}));
    KVLINK_ASSIGN_OR_RETURN(wanted_residual_, context_.Scratch(kWantedResidual, Dtype::kF32, {count, config_.hidden}));
    KVLINK_ASSIGN_OR_RETURN(wanted_attention_, context_.Scratch(kWantedAttention, Dtype::kF32, sizes));
    return backend_.CopyIn(*context_.stream, context_.wanted_rows.data(), wanted_.data, wanted_.bytes);
  }

  // Gathers scattered requested rows, so that the weights are read once. An embedding lookup serves as the gather.
  absl::Status GatherWanted() {
    KVLINK_RETURN_IF_ERROR(backend_.Embed(*context_.stream, {wanted_, residual_, {}, wanted_residual_}));
    KVLINK_RETURN_IF_ERROR(backend_.Embed(*context_.stream, {wanted_, attention_, {}, wanted_attention_}));
    residual_ = wanted_residual_;
    attention_ = wanted_attention_;
    return absl::OkStatus();
  }

  const Transformer& model_;
  Context& context_;
  const ForwardBatch& batch_;
  const ModelConfig& config_;
  kernels::Backend& backend_;
  const int64_t rows_;
  const int64_t last_;  // layer
  const kernels::Rope* rope_ = nullptr;
  Tensor ids_, positions_, slots_, all_residual_, normed_, qkv_, query_, all_attention_, gated_, delta_, logits_;
  Tensor wanted_, wanted_residual_, wanted_attention_;
  Tensor lse_, mass_;            // of a pass that is observed
  Tensor residual_, attention_;  // of the remaining rows: all, then only the requested ones
};

}  // namespace

std::unique_ptr<ForwardContext> Transformer::NewContext() const { return std::make_unique<Context>(backend_); }

kernels::AttentionParams Transformer::attention_params(int64_t layer) const {
  kernels::AttentionParams params;
  params.heads = config_.heads;
  params.kv_heads = config_.kv_heads;
  params.head_dim = config_.head_dim;
  params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
  params.window = config_.window.empty() ? 0 : config_.window[layer];
  return params;
}

absl::StatusOr<Tensor> Transformer::Forward(ForwardContext& context, const ForwardBatch& batch) const {
  return Pass(*this, static_cast<Context&>(context), batch).Run();
}

}  // namespace kvlink::model
