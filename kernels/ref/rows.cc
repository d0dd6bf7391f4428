// Operations that work row by row: embedding, norm, linear, the fused end of the qkv projection, sampling.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/ref/operations.h"
#include "kernels/ref/scalar.h"
#include "kernels/sampling.h"

namespace kvlink::kernels::ref {
namespace {

double Dot(const Tensor& x, int64_t row, const float* weights, int64_t k) {
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += Load(x, At(x, row, i)) * static_cast<double>(weights[i]);
  return sum;
}

class HeadReader {
 public:
  HeadReader(const QkvFinishArgs& args, int64_t row) : args_(args), row_(row) {}
  // Element d of head `head` of [q heads, k heads, v heads], after bias and norm.
  void Begin(int64_t head, const Tensor& norm) {
    head_ = head;
    norm_ = &norm;
    scale_ = 1;
    if (norm.data == nullptr) return;
    double squares = 0;
    for (int64_t d = 0; d < args_.params.head_dim; ++d) squares += Raw(d) * Raw(d);
    scale_ = 1 / std::sqrt(squares / static_cast<double>(args_.params.head_dim) + static_cast<double>(args_.norm_eps));
  }
  double operator()(int64_t d) const {
    return Raw(d) * scale_ * (norm_->data == nullptr ? 1.0 : static_cast<double>(norm_->as<const float>()[d]));
  }

 private:
  double Raw(int64_t d) const {
    const int64_t column = head_ * args_.params.head_dim + d;
    const double bias = args_.bias.data == nullptr ? 0.0 : static_cast<double>(args_.bias.as<const float>()[column]);
    return Load(args_.qkv, At(args_.qkv, row_, column)) + bias;
  }
  const QkvFinishArgs& args_;
  const int64_t row_;
  int64_t head_ = 0;
  const Tensor* norm_ = nullptr;
  double scale_ = 1;
};

// Writes the key of one token and head, rotated pair by pair, so that no row needs to be buffered.
void WriteKey(const QkvFinishArgs& args, const HeadReader& key, int64_t position, int64_t slot, int64_t head) {
  const Rope& rope = *args.rope;
  const int64_t half = rope.rotary_dim / 2;
  for (int64_t d = 0; d < half; ++d) {
    const double angle = static_cast<double>(position) * rope.inv_freq[static_cast<size_t>(d)];
    const double cosine = std::cos(angle) * rope.attention_factor, sine = std::sin(angle) * rope.attention_factor;
    const double a = key(d), b = key(d + half);
    Store(args.pages, PageElement(args.pages, slot, head, 0, d), a * cosine - b * sine);
    Store(args.pages, PageElement(args.pages, slot, head, 0, d + half), b * cosine + a * sine);
  }
  for (int64_t d = rope.rotary_dim; d < args.params.head_dim; ++d) {
    Store(args.pages, PageElement(args.pages, slot, head, 0, d), key(d));
  }
}

}  // namespace

void Embed(HostStream& stream, const EmbedArgs& args) {
  const int64_t rows = args.ids.sizes[0], vocab = args.table.sizes[0], hidden = args.table.sizes[1];
  const int64_t extra = args.extra.data == nullptr ? 0 : args.extra.sizes[0];
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t id = args.ids.as<const int32_t>()[row];
    if (id < 0 || id >= vocab + extra) {
      stream.Fail(absl::InternalError(absl::StrCat("Embed: row ", row, " has id ", id, " of ", vocab + extra)));
      continue;
    }
    const Tensor& source = id < vocab ? args.table : args.extra;
    const int64_t from = id < vocab ? id : id - vocab;
    for (int64_t j = 0; j < hidden; ++j) Store(args.out, At(args.out, row, j), Load(source, At(source, from, j)));
  }
}

void AddRmsNorm(const AddRmsNormArgs& args) {
  const int64_t rows = args.residual.sizes[0], hidden = args.residual.sizes[1];
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int64_t j = 0; j < hidden; ++j) {
      const int64_t index = At(args.residual, row, j);
      if (args.delta.data != nullptr) {
        Store(args.residual, index, Load(args.residual, index) + Load(args.delta, At(args.delta, row, j)));
      }
      const double value = Load(args.residual, index);
      squares += value * value;
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(hidden) + static_cast<double>(args.eps));
    for (int64_t j = 0; j < hidden; ++j) {
      Store(args.out, At(args.out, row, j),
            Load(args.residual, At(args.residual, row, j)) * scale * Load(args.weight, At(args.weight, j)));
    }
  }
}

void Linear(const LinearArgs& args, const RefMatrix& weight) {
  const int64_t rows = args.x.sizes[0], columns = args.out.sizes[1];
  const auto output = [&](int64_t row, int64_t column) {
    const double bias = args.bias.data == nullptr ? 0.0 : static_cast<double>(args.bias.as<const float>()[column]);
    return Dot(args.x, row, weight.row(column), weight.k()) + bias;
  };
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      double value = output(row, column);
      if (args.epilogue == Epilogue::kSiluMul) value = value / (1 + std::exp(-value)) * output(row, columns + column);
      Store(args.out, At(args.out, row, column), value);
    }
  }
}

void QkvFinish(HostStream& stream, const QkvFinishArgs& args) {
  const int64_t rows = args.qkv.sizes[0], heads = args.params.heads, kv_heads = args.params.kv_heads;
  const int64_t slot_count = args.pages.sizes[0] * kBlockTokens;
  const Tensor no_norm;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t position = args.positions.as<const int64_t>()[row];
    const int64_t slot = args.slots.as<const int64_t>()[row];
    HeadReader reader(args, row);
    for (int64_t head = 0; head < heads; ++head) {
      reader.Begin(head, args.q_norm);
      for (int64_t d = 0; d < args.params.head_dim; ++d) Store(args.q_out, At(args.q_out, row, head, d), reader(d));
    }
    if (slot < 0 || slot >= slot_count) {
      stream.Fail(absl::InternalError(absl::StrCat("QkvFinish: row ", row, " has slot ", slot, " of ", slot_count)));
      continue;
    }
    for (int64_t head = 0; head < kv_heads; ++head) {
      reader.Begin(heads + head, args.k_norm);
      WriteKey(args, reader, position, slot, head);
      reader.Begin(heads + kv_heads + head, no_norm);
      for (int64_t d = 0; d < args.params.head_dim; ++d) {
        Store(args.pages, PageElement(args.pages, slot, head, 1, d), reader(d));
      }
    }
  }
}

int64_t SampleWorkspaceBytes(int64_t vocab, int64_t adjusted) {
  return vocab * static_cast<int64_t>(sizeof(SampleCandidate) + (adjusted > 0 ? sizeof(float) : 0));
}

void Sample(const SampleArgs& args) {
  if (args.params.empty()) return;
  const size_t vocab = static_cast<size_t>(args.logits.sizes[1]);
  const absl::Span<SampleCandidate> scratch(static_cast<SampleCandidate*>(args.workspace.data), vocab);
  const absl::Span<float> adjusted(reinterpret_cast<float*>(scratch.data() + vocab), vocab);
  for (size_t row = 0; row < args.params.size(); ++row) {
    absl::Span<const float> logits(args.logits.as<const float>() + static_cast<int64_t>(row) * args.logits.strides[0],
                                   vocab);
    if (!args.adjustments.empty() && args.adjustments[row].any()) {
      AdjustLogits(logits, args.adjustments[row], adjusted);
      logits = adjusted;
    }
    args.out.as<int32_t>()[row] = SampleRow(logits, args.params[row], scratch).value_or(kNoToken);
  }
}

void Logprobs(const LogprobsArgs& args) {
  for (size_t i = 0; i < args.rows.size(); ++i) LogprobsOf(args, static_cast<int64_t>(i));
}

}  // namespace kvlink::kernels::ref
