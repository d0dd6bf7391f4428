#include "tests/support/masked_forward.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/rope.h"

namespace kvlink::testing {
namespace {

using Vector = std::vector<double>;

// A weight [n, k], stored as [k, n] so that products run along memory.
struct Matrix {
  int64_t n = 0;
  int64_t k = 0;
  Vector data;

  // y = W x
  void Multiply(const double* x, double* y) const {
    std::fill(y, y + n, 0.0);
    for (int64_t i = 0; i < k; ++i) {
      const double xi = x[i];
      const double* row = data.data() + i * n;
      for (int64_t j = 0; j < n; ++j) y[j] += xi * row[j];
    }
  }
};

class Oracle {
 public:
  Oracle(const model::Weights& weights, absl::Span<const MaskedToken> tokens, absl::Span<const float> extra,
         MaskedTrace* trace)
      : weights_(weights), config_(weights.config()), tokens_(tokens), extra_(extra), trace_(trace) {
    trace_->mass.assign(tokens.size(), 0.0);
  }

  absl::StatusOr<std::vector<float>> Run(absl::Span<const int64_t> wanted) {
    KVLINK_ASSIGN_OR_RETURN(rope_, kernels::MakeRope(config_.rope));
    KVLINK_RETURN_IF_ERROR(Embed());
    std::vector<int64_t> rows(tokens_.size());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      // In the last layer only the wanted rows matter, beside all keys and values.
      if (layer + 1 == config_.layers) rows.assign(wanted.begin(), wanted.end());
      KVLINK_RETURN_IF_ERROR(Layer(layer, rows));
    }
    return Logits(wanted);
  }

 private:
  absl::StatusOr<Matrix> Load(const std::string& name, int64_t n, int64_t k) {
    std::vector<float> values(n * k);
    KVLINK_RETURN_IF_ERROR(weights_.Read(name, 0, n, absl::MakeSpan(values)));
    Matrix matrix{n, k, Vector(n * k)};
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < k; ++i) matrix.data[i * n + j] = values[j * k + i];
    }
    return matrix;
  }
  // A vector, or zeros if the model has none.
  absl::StatusOr<Vector> LoadVector(const std::string& name, int64_t n, bool present) {
    if (!present) return Vector(n, 0.0);
    std::vector<float> values(n);
    KVLINK_RETURN_IF_ERROR(weights_.Read(name, 0, n, absl::MakeSpan(values)));
    return Vector(values.begin(), values.end());
  }

  absl::Status Embed() {
    const int64_t hidden = config_.hidden;
    residual_.resize(tokens_.size() * hidden);
    std::vector<float> row(hidden);
    for (size_t t = 0; t < tokens_.size(); ++t) {
      const int64_t id = tokens_[t].id;
      if (id >= config_.vocab) {
        const float* from = extra_.data() + (id - config_.vocab) * hidden;
        row.assign(from, from + hidden);
      } else {
        KVLINK_RETURN_IF_ERROR(weights_.Read("model.embed_tokens.weight", id, 1, absl::MakeSpan(row)));
      }
      std::copy(row.begin(), row.end(), residual_.begin() + t * hidden);
    }
    return absl::OkStatus();
  }

  Vector Norm(const double* x, const Vector& weight) const {
    double sum = 0;
    for (size_t i = 0; i < weight.size(); ++i) sum += x[i] * x[i];
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(weight.size()) + config_.rms_eps);
    Vector out(weight.size());
    for (size_t i = 0; i < weight.size(); ++i) out[i] = x[i] * scale * weight[i];
    return out;
  }

  void Rotate(double* head, int64_t position) const {
    const int64_t half = rope_.rotary_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * rope_.inv_freq[i];
      const double cosine = std::cos(angle) * rope_.attention_factor;
      const double sine = std::sin(angle) * rope_.attention_factor;
      const double a = head[i];
      const double b = head[i + half];
      head[i] = a * cosine - b * sine;
      head[i + half] = b * cosine + a * sine;
    }
  }

  absl::Status Layer(int64_t layer, absl::Span<const int64_t> rows) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const int64_t hidden = config_.hidden;
    const int64_t dim = config_.head_dim;
    const int64_t q_size = config_.heads * dim;
    const int64_t kv_size = config_.kv_heads * dim;
    const std::string attention = prefix + "self_attn.";
    KVLINK_ASSIGN_OR_RETURN(const Vector norm, LoadVector(prefix + "input_layernorm.weight", hidden, true));
    KVLINK_ASSIGN_OR_RETURN(const Matrix wq, Load(attention + "q_proj.weight", q_size, hidden));
    KVLINK_ASSIGN_OR_RETURN(const Matrix wk, Load(attention + "k_proj.weight", kv_size, hidden));
    KVLINK_ASSIGN_OR_RETURN(const Matrix wv, Load(attention + "v_proj.weight", kv_size, hidden));
    KVLINK_ASSIGN_OR_RETURN(const Vector bq, LoadVector(attention + "q_proj.bias", q_size, config_.qkv_bias));
    KVLINK_ASSIGN_OR_RETURN(const Vector bk, LoadVector(attention + "k_proj.bias", kv_size, config_.qkv_bias));
    KVLINK_ASSIGN_OR_RETURN(const Vector bv, LoadVector(attention + "v_proj.bias", kv_size, config_.qkv_bias));
    KVLINK_ASSIGN_OR_RETURN(const Vector q_norm, LoadVector(attention + "q_norm.weight", dim, config_.qk_norm));
    KVLINK_ASSIGN_OR_RETURN(const Vector k_norm, LoadVector(attention + "k_norm.weight", dim, config_.qk_norm));

    const auto project = [&](const Vector& x, const Matrix& w, const Vector& bias, const Vector* head_norm,
                             int64_t position, double* out) {
      w.Multiply(x.data(), out);
      for (int64_t i = 0; i < w.n; ++i) out[i] += bias[i];
      for (int64_t h = 0; head_norm != nullptr && h < w.n / dim; ++h) {
        if (config_.qk_norm) {
          const Vector normed = Norm(out + h * dim, *head_norm);
          std::copy(normed.begin(), normed.end(), out + h * dim);
        }
        Rotate(out + h * dim, position);
      }
    };
    const size_t count = tokens_.size();
    keys_.resize(count * kv_size);
    values_.resize(count * kv_size);
    std::vector<Vector> normed(count);
    for (size_t t = 0; t < count; ++t) {
      normed[t] = Norm(residual_.data() + t * hidden, norm);
      project(normed[t], wk, bk, &k_norm, tokens_[t].position, keys_.data() + t * kv_size);
      project(normed[t], wv, bv, nullptr, 0, values_.data() + t * kv_size);
    }
    if (layer == trace_->layer) {
      trace_->keys = keys_;
      trace_->values = values_;
    }
    KVLINK_ASSIGN_OR_RETURN(const Matrix wo, Load(attention + "o_proj.weight", hidden, q_size));
    KVLINK_ASSIGN_OR_RETURN(const Vector post, LoadVector(prefix + "post_attention_layernorm.weight", hidden, true));
    KVLINK_ASSIGN_OR_RETURN(const Matrix gate, Load(prefix + "mlp.gate_proj.weight", config_.intermediate, hidden));
    KVLINK_ASSIGN_OR_RETURN(const Matrix up, Load(prefix + "mlp.up_proj.weight", config_.intermediate, hidden));
    KVLINK_ASSIGN_OR_RETURN(const Matrix down, Load(prefix + "mlp.down_proj.weight", hidden, config_.intermediate));
    Vector query(q_size), heads(q_size), delta(hidden), gated(config_.intermediate), lifted(config_.intermediate);
    for (int64_t t : rows) {
      double* x = residual_.data() + t * hidden;
      project(normed[t], wq, bq, &q_norm, tokens_[t].position, query.data());
      Attend(layer, t, query, &heads);
      wo.Multiply(heads.data(), delta.data());
      for (int64_t i = 0; i < hidden; ++i) x[i] += delta[i];
      const Vector second = Norm(x, post);
      gate.Multiply(second.data(), gated.data());
      up.Multiply(second.data(), lifted.data());
      for (size_t i = 0; i < gated.size(); ++i) gated[i] = gated[i] / (1 + std::exp(-gated[i])) * lifted[i];
      down.Multiply(gated.data(), delta.data());
      for (int64_t i = 0; i < hidden; ++i) x[i] += delta[i];
    }
    return absl::OkStatus();
  }

  void Attend(int64_t layer, int64_t t, const Vector& query, Vector* out) {
    const int64_t dim = config_.head_dim;
    const int64_t kv_size = config_.kv_heads * dim;
    const int64_t window = config_.window.empty() ? 0 : config_.window[layer];
    std::vector<int64_t> visible;
    const MaskedToken& of = tokens_[t];
    for (size_t k = 0; k < tokens_.size() && tokens_[k].position <= of.position; ++k) {
      const bool sees = of.segment == 0 ? !tokens_[k].hidden : of.segment == tokens_[k].segment;
      if (sees && (window == 0 || tokens_[k].position > of.position - window))
        visible.push_back(static_cast<int64_t>(k));
    }
    Vector weights(visible.size());
    const bool observes = std::count(trace_->observers.begin(), trace_->observers.end(), t) > 0;
    for (int64_t h = 0; h < config_.heads; ++h) {
      const int64_t group = h / (config_.heads / config_.kv_heads);
      const double* q = query.data() + h * dim;
      double most = -HUGE_VAL;
      for (size_t i = 0; i < visible.size(); ++i) {
        const double* key = keys_.data() + visible[i] * kv_size + group * dim;
        double dot = 0;
        for (int64_t d = 0; d < dim; ++d) dot += q[d] * key[d];
        weights[i] = dot / std::sqrt(static_cast<double>(dim));
        most = std::max(most, weights[i]);
      }
      double sum = 0;
      for (double& weight : weights) sum += weight = std::exp(weight - most);
      double* o = out->data() + h * dim;
      std::fill(o, o + dim, 0.0);
      for (size_t i = 0; i < visible.size(); ++i) {
        const double* value = values_.data() + visible[i] * kv_size + group * dim;
        const double share = weights[i] / sum;
        if (observes) trace_->mass[visible[i]] += share;
        for (int64_t d = 0; d < dim; ++d) o[d] += share * value[d];
      }
    }
  }

  absl::StatusOr<std::vector<float>> Logits(absl::Span<const int64_t> wanted) {
    const std::string head = config_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    KVLINK_ASSIGN_OR_RETURN(const Vector norm, LoadVector("model.norm.weight", config_.hidden, true));
    KVLINK_ASSIGN_OR_RETURN(const Matrix output, Load(head, config_.vocab, config_.hidden));
    std::vector<float> logits;
    Vector row(config_.vocab);
    for (int64_t t : wanted) {
      output.Multiply(Norm(residual_.data() + t * config_.hidden, norm).data(), row.data());
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return logits;
  }

  const model::Weights& weights_;
  const model::ModelConfig& config_;
  const absl::Span<const MaskedToken> tokens_;
  const absl::Span<const float> extra_;
  MaskedTrace* const trace_;
  kernels::Rope rope_;
  Vector residual_;
  Vector keys_;
  Vector values_;
};

}  // namespace

absl::StatusOr<std::vector<float>> MaskedForward(const model::Weights& weights, absl::Span<const MaskedToken> tokens,
                                                 absl::Span<const float> extra_embeddings,
                                                 absl::Span<const int64_t> wanted, MaskedTrace* trace) {
  MaskedTrace unused;
  return Oracle(weights, tokens, extra_embeddings, trace != nullptr ? trace : &unused).Run(wanted);
}

}  // namespace kvlink::testing
