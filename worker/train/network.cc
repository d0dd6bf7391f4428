// Attention runs block by block: each document over itself, and rows outside documents over everything before them.
// Together the blocks are exactly the segment mask. A block has a limited number of rows, so that little of what the
// mask hides is computed, and that scores stay in the caches of a CPU.
#include "worker/train/network.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/rope.h"
#include "worker/data/random.h"

namespace kvlink::train {
namespace {

constexpr int64_t kHostRows = 128, kDeviceRows = 1024;  // of a block

at::Tensor Longs(const std::vector<int64_t>& values) {
  return at::tensor(at::ArrayRef<int64_t>(values), at::TensorOptions().dtype(at::kLong));
}

// Sum of 12 uniform numbers: near enough to a normal distribution, and the same on every machine.
void FillRandom(uint64_t seed, double deviation, float* out, int64_t count) {
  data::Random random(seed);
  for (int64_t i = 0; i < count; ++i) {
    double sum = -6;
    for (int j = 0; j < 12; ++j) sum += random.Uniform();
    out[i] = static_cast<float>(sum * deviation);
  }
}

// Builds a Layout sequence by sequence. A block of queries is of one document, or of rows outside all of them.
class LayoutBuilder {
 public:
  LayoutBuilder(const model::ModelConfig& config, const kernels::Rope& rope, const NetworkOptions& options)
      : vocab_(config.vocab),
        rope_(rope),
        device_(options.device),
        block_rows_(options.device.is_cpu() ? kHostRows : kDeviceRows),
        windows_(config.window.begin(), config.window.end()) {
    if (windows_.empty()) windows_.insert(0);
  }

  void Add(const Sequence& sequence) {
    begin_ = static_cast<int64_t>(ids_.size());
    const auto length = static_cast<int64_t>(sequence.tokens.size());
    for (int64_t i = 0; i < length; ++i) AddToken(i, sequence.tokens[static_cast<size_t>(i)]);
    for (const int64_t token : sequence.learned) wanted_.push_back(begin_ + token - 1);
    order_.resize(ids_.size());
    int64_t at = 0;
    for (const auto& [first, end] : sequence.documents) {
      AddOutside(at, first);
      for (int64_t from = first; from < end; from += block_rows_) {
        std::vector<int64_t> rows(static_cast<size_t>(std::min(end - from, block_rows_)));
        std::iota(rows.begin(), rows.end(), from);
        AddBlock(rows, first);
      }
      at = end;
    }
    AddOutside(at, length);
    FlushOutside();
  }

  Layout Take() {
    layout_.ids = Longs(ids_).to(device_);
    if (!extra_rows_.empty()) {
      layout_.extra_rows = Longs(extra_rows_).to(device_);
      layout_.extra_ids = Longs(extra_ids_).to(device_);
    }
    layout_.cosine = Table(cosine_);
    layout_.sine = Table(sine_);
    layout_.wanted = Longs(wanted_).to(device_);
    layout_.order = Longs(order_).to(device_);
    return std::move(layout_);
  }

 private:
  void AddToken(int64_t position, int64_t id) {
    if (id >= vocab_) {
      extra_rows_.push_back(begin_ + position);
      extra_ids_.push_back(id - vocab_);
    }
    ids_.push_back(id >= vocab_ ? 0 : id);
    const auto half = static_cast<size_t>(rope_.rotary_dim / 2);
    std::vector<float> cosines(half), sines(half);
    rope_.Angles(position, absl::MakeSpan(cosines), absl::MakeSpan(sines));
    for (int repeat = 0; repeat < 2; ++repeat) {
      cosine_.insert(cosine_.end(), cosines.begin(), cosines.end());
      sine_.insert(sine_.end(), sines.begin(), sines.end());
    }
  }
  void AddOutside(int64_t from, int64_t end) {
    for (; from < end; ++from) {
      outside_.push_back(from);
      if (static_cast<int64_t>(outside_.size()) == block_rows_) FlushOutside();
    }
  }
  void FlushOutside() {
    if (!outside_.empty()) AddBlock(outside_, 0);
    outside_.clear();
  }
  // Rows of the sequence, ascending, that see its keys from `first_key` on.
  void AddBlock(const std::vector<int64_t>& rows, int64_t first_key) {
    Layout::Block block;
    const int64_t end_key = rows.back() + 1;
    std::vector<int64_t> absolute;
    for (const int64_t row : rows) {
      absolute.push_back(begin_ + row);
      order_[static_cast<size_t>(begin_ + row)] = placed_++;
    }
    block.begin = begin_ + first_key;
    block.end = begin_ + end_key;
    const at::Tensor distance = Longs(rows).unsqueeze(1) - at::arange(first_key, end_key).unsqueeze(0);
    for (const int64_t window : windows_) {
      at::Tensor hidden = distance.lt(0);
      if (window > 0) hidden = hidden.logical_or(distance.ge(window));
      block.hidden[window] = hidden.to(device_);
    }
    block.rows = Longs(absolute).to(device_);
    layout_.blocks.push_back(std::move(block));
  }
  at::Tensor Table(const std::vector<float>& values) const {
    const auto rows = static_cast<int64_t>(ids_.size());
    const at::Tensor table = at::tensor(at::ArrayRef<float>(values)).view({rows, 1, rope_.rotary_dim});
    return (table * rope_.attention_factor).to(device_);
  }

  const int64_t vocab_;
  const kernels::Rope& rope_;
  const at::Device device_;
  const int64_t block_rows_;
  std::set<int64_t> windows_;
  Layout layout_;
  std::vector<int64_t> ids_, extra_rows_, extra_ids_, wanted_, order_;
  std::vector<float> cosine_, sine_;
  int64_t begin_ = 0;             // of the present sequence
  int64_t placed_ = 0;            // rows in blocks so far
  std::vector<int64_t> outside_;  // rows outside documents, not yet in a block
};

}  // namespace

template <typename Visit>
absl::Status Network::Walk(const Visit& visit) {
  const int64_t hidden = config_.hidden, head = config_.head_dim, wide = config_.intermediate;
  const int64_t q = config_.heads * head, kv = config_.kv_heads * head;
  using Shape = std::vector<int64_t>;
  KVLINK_RETURN_IF_ERROR(visit("model.embed_tokens.weight", Shape{config_.vocab, hidden}, &embedding_));
  layers_.resize(static_cast<size_t>(config_.layers));
  for (int64_t i = 0; i < config_.layers; ++i) {
    Layer& layer = layers_[static_cast<size_t>(i)];
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    const auto matrix = [&](absl::string_view name, int64_t rows, int64_t columns, bool bias, Matrix* out) {
      out->name = absl::StrCat(prefix, name);
      KVLINK_RETURN_IF_ERROR(visit(out->name + ".weight", Shape{rows, columns}, &out->weight));
      return bias ? visit(out->name + ".bias", Shape{rows}, &out->bias) : absl::OkStatus();
    };
    KVLINK_RETURN_IF_ERROR(visit(prefix + "input_layernorm.weight", Shape{hidden}, &layer.input_norm));
    KVLINK_RETURN_IF_ERROR(matrix("self_attn.q_proj", q, hidden, config_.qkv_bias, &layer.q));
    KVLINK_RETURN_IF_ERROR(matrix("self_attn.k_proj", kv, hidden, config_.qkv_bias, &layer.k));
    KVLINK_RETURN_IF_ERROR(matrix("self_attn.v_proj", kv, hidden, config_.qkv_bias, &layer.v));
    if (config_.qk_norm) {
      KVLINK_RETURN_IF_ERROR(visit(prefix + "self_attn.q_norm.weight", Shape{head}, &layer.q_norm));
      KVLINK_RETURN_IF_ERROR(visit(prefix + "self_attn.k_norm.weight", Shape{head}, &layer.k_norm));
    }
    KVLINK_RETURN_IF_ERROR(matrix("self_attn.o_proj", hidden, q, config_.output_bias, &layer.output));
    KVLINK_RETURN_IF_ERROR(visit(prefix + "post_attention_layernorm.weight", Shape{hidden}, &layer.post_norm));
    KVLINK_RETURN_IF_ERROR(matrix("mlp.gate_proj", wide, hidden, config_.mlp_bias, &layer.gate));
    KVLINK_RETURN_IF_ERROR(matrix("mlp.up_proj", wide, hidden, config_.mlp_bias, &layer.up));
    KVLINK_RETURN_IF_ERROR(matrix("mlp.down_proj", hidden, wide, config_.mlp_bias, &layer.down));
  }
  KVLINK_RETURN_IF_ERROR(visit("model.norm.weight", Shape{hidden}, &final_norm_));
  if (config_.tied_embeddings) return absl::OkStatus();
  head_.name = "lm_head";
  return visit("lm_head.weight", Shape{config_.vocab, hidden}, &head_.weight);
}

absl::StatusOr<std::unique_ptr<Network>> Network::Create(const model::ModelConfig& config,
                                                         const model::Weights* weights, uint64_t seed,
                                                         const NetworkOptions& options) {
  KVLINK_RETURN_IF_ERROR(config.Validate());
  std::unique_ptr<Network> network(new Network(options));
  network->config_ = config;
  KVLINK_ASSIGN_OR_RETURN(network->rope_, kernels::MakeRope(config.rope));
  data::Random seeds(seed);
  const auto load = [&](const std::string& name, const std::vector<int64_t>& shape, at::Tensor* out) -> absl::Status {
    at::Tensor values = at::empty(shape, at::kFloat);
    float* const data = values.data_ptr<float>();
    if (weights != nullptr) {
      KVLINK_RETURN_IF_ERROR(
          weights->Read(name, 0, shape[0], absl::MakeSpan(data, static_cast<size_t>(values.numel()))));
    } else if (shape.size() == 2) {
      // As GPT-2: what is added to the residual is smaller the more layers add to it.
      const bool added = name.find("o_proj") != std::string::npos || name.find("down_proj") != std::string::npos;
      const double depth = added ? std::sqrt(2.0 * static_cast<double>(config.layers)) : 1;
      FillRandom(seeds.Next(), 0.02 / depth, data, values.numel());
    } else {
      values.fill_(name.find("norm") != std::string::npos ? 1 : 0);
    }
    *out = values.to(options.device);
    return absl::OkStatus();
  };
  KVLINK_RETURN_IF_ERROR(network->Walk(load));
  return network;
}

std::vector<std::pair<std::string, at::Tensor*>> Network::Parameters() {
  std::vector<std::pair<std::string, at::Tensor*>> parameters;
  const absl::Status never = Walk([&](const std::string& name, const std::vector<int64_t>&, at::Tensor* tensor) {
    parameters.emplace_back(name, tensor);
    return absl::OkStatus();
  });
  never.IgnoreError();
  return parameters;
}

std::vector<Matrix*> Network::Matrices() {
  std::vector<Matrix*> matrices;
  for (Layer& layer : layers_) {
    for (Matrix* matrix : {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down}) {
      matrices.push_back(matrix);
    }
  }
  return matrices;
}

void Network::Freeze() {
  if (!options_.bf16) return;
  for (Matrix* matrix : Matrices()) matrix->weight = matrix->weight.to(at::kBFloat16);
  head_.weight = (head_.weight.defined() ? head_.weight : embedding_).to(at::kBFloat16);
}

Layout Network::LayOut(absl::Span<const Sequence* const> pack) const {
  LayoutBuilder builder(config_, rope_, options_);
  for (const Sequence* sequence : pack) builder.Add(*sequence);
  return builder.Take();
}

at::Tensor Network::Embed(const Layout& layout, const at::Tensor& extra) const {
  at::Tensor x = at::embedding(embedding_, layout.ids);
  if (!layout.extra_rows.defined()) return x;
  return x.index_copy(0, layout.extra_rows, extra.index_select(0, layout.extra_ids));
}

at::Tensor Network::Apply(const Matrix& matrix, const at::Tensor& x) const {
  const auto product = [this](const at::Tensor& a, const at::Tensor& weight, const at::Tensor& bias) {
    if (!options_.bf16) return bias.defined() ? at::linear(a, weight, bias) : at::linear(a, weight);
    at::Tensor out = at::linear(a.to(at::kBFloat16), weight.to(at::kBFloat16)).to(at::kFloat);
    return bias.defined() ? out + bias : out;
  };
  at::Tensor out = product(x, matrix.weight, matrix.bias);
  if (matrix.lora_a.defined() && lora_scale_ != 0) {
    out = out + product(product(x, matrix.lora_a, {}), matrix.lora_b, {}) * lora_scale_;
  }
  return out;
}

at::Tensor Network::Norm(const at::Tensor& x, const at::Tensor& weight) const {
  return x * at::rsqrt(x.pow(2).mean(-1, /*keepdim=*/true) + config_.rms_eps) * weight;
}

at::Tensor Network::Attend(const Layer& layer, int64_t window, const at::Tensor& x, const Layout& layout) const {
  const int64_t rows = x.size(0), groups = config_.kv_heads, dim = config_.head_dim;
  const int64_t shared = config_.heads / groups;  // query heads for each kv head
  const auto turn = [&](const at::Tensor& heads) {
    const at::Tensor turned = heads.narrow(2, 0, rope_.rotary_dim);
    const int64_t half = rope_.rotary_dim / 2;
    const at::Tensor other = at::cat({-turned.narrow(2, half, half), turned.narrow(2, 0, half)}, 2);
    const at::Tensor result = turned * layout.cosine + other * layout.sine;
    if (rope_.rotary_dim == dim) return result;
    return at::cat({result, heads.narrow(2, rope_.rotary_dim, dim - rope_.rotary_dim)}, 2);
  };
  at::Tensor q = Apply(layer.q, x).view({rows, config_.heads, dim});
  at::Tensor k = Apply(layer.k, x).view({rows, groups, dim});
  at::Tensor v = Apply(layer.v, x).view({rows, groups, dim});
  if (config_.qk_norm) {
    q = Norm(q, layer.q_norm);
    k = Norm(k, layer.k_norm);
  }
  q = turn(q) * (1 / std::sqrt(static_cast<double>(dim)));
  k = turn(k).permute({1, 2, 0});  // [groups, dim, rows]
  v = v.permute({1, 0, 2});
  if (options_.bf16) {
    q = q.to(at::kBFloat16);
    k = k.to(at::kBFloat16);
    v = v.to(at::kBFloat16);
  }
  std::vector<at::Tensor> parts;
  for (const Layout::Block& block : layout.blocks) {
    const int64_t n = block.rows.size(0), keys = block.end - block.begin;
    const at::Tensor query =
        q.index_select(0, block.rows).view({n, groups, shared, dim}).permute({1, 2, 0, 3}).reshape({groups, -1, dim});
    at::Tensor scores = at::bmm(query, k.narrow(2, block.begin, keys)).to(at::kFloat).view({groups, shared, n, keys});
    scores.masked_fill_(block.hidden.at(window), -std::numeric_limits<double>::infinity());
    const at::Tensor weights = scores.softmax(-1).view({groups, shared * n, keys}).to(v.scalar_type());
    parts.push_back(at::bmm(weights, v.narrow(1, block.begin, keys))
                        .to(at::kFloat)
                        .view({groups, shared, n, dim})
                        .permute({2, 0, 1, 3})
                        .reshape({n, config_.heads * dim}));
  }
  return Apply(layer.output, at::cat(parts, 0).index_select(0, layout.order));
}

at::Tensor Network::RunLayer(const at::Tensor& x, int64_t index, const Layout& layout) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const int64_t window = config_.window.empty() ? 0 : config_.window[static_cast<size_t>(index)];
  const at::Tensor middle = x + Attend(layer, window, Norm(x, layer.input_norm), layout);
  const at::Tensor normed = Norm(middle, layer.post_norm);
  return middle + Apply(layer.down, at::silu(Apply(layer.gate, normed)) * Apply(layer.up, normed));
}

namespace {

// A layer of which the backward pass knows only the input. Gradients of parameters are added by a backward pass of its
// own.
class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, int64_t layer,
                            const Network* network, const Layout* layout) {
    context->save_for_backward({x});
    context->saved_data["layer"] = layer;
    context->saved_data["network"] = static_cast<int64_t>(reinterpret_cast<intptr_t>(network));
    context->saved_data["layout"] = static_cast<int64_t>(reinterpret_cast<intptr_t>(layout));
    return network->RunLayer(x, layer, *layout);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto* network = reinterpret_cast<const Network*>(context->saved_data["network"].toInt());
    const auto* layout = reinterpret_cast<const Layout*>(context->saved_data["layout"].toInt());
    const at::AutoGradMode on(true);
    const at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    network->RunLayer(x, context->saved_data["layer"].toInt(), *layout).backward(gradients[0]);
    return {x.grad(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor Network::Forward(const Layout& layout, const at::Tensor& extra) const {
  at::Tensor x = Embed(layout, extra);
  const bool recompute = x.size(0) > options_.recompute_above && at::GradMode::is_enabled();
  if (recompute && !x.requires_grad()) x = x.detach().requires_grad_();
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    x = recompute ? Recomputed::apply(x, layer, this, &layout) : RunLayer(x, layer, layout);
  }
  return Norm(x.index_select(0, layout.wanted), final_norm_);
}

at::Tensor Network::Logits(const at::Tensor& hidden) const {
  if (head_.weight.defined()) return Apply(head_, hidden);
  Matrix tied;
  tied.weight = embedding_;
  return Apply(tied, hidden);
}

}  // namespace kvlink::train
