// Embedding, norm, the fused end of the qkv projection, sampling.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/angles.h"
#include "kernels/cpu/element_rows.h"
#include "kernels/cpu/first_error.h"
#include "kernels/cpu/operations.h"
#include "kernels/sampling.h"

namespace kvlink::kernels::cpu {
namespace {

float RmsFactor(float squares, int64_t count, float eps) {
  return static_cast<float>(
      1 / std::sqrt(static_cast<double>(squares) / static_cast<double>(count) + static_cast<double>(eps)));
}

// Head `head` of [q heads, k heads, v heads] of a row, after bias and norm.
void TakeHead(const QkvFinishArgs& args, int64_t row, int64_t head, const Tensor& norm, float* to) {
  const RowKernels& kernels = GetRowKernels();
  const int64_t dim = args.params.head_dim;
  LoadRow(args.qkv, row * args.qkv.strides[0] + head * dim, dim, to);
  if (args.bias.data != nullptr) kernels.add(args.bias.as<const float>() + head * dim, dim, to);
  if (norm.data == nullptr) return;
  kernels.scale(to, RmsFactor(kernels.sum_of_squares(to, dim), dim, args.norm_eps), norm.as<const float>(), dim, to);
}

void FinishRow(const QkvFinishArgs& args, int64_t row, int64_t slot, AngleWalker& angles) {
  const int64_t heads = args.params.heads, kv_heads = args.params.kv_heads, dim = args.params.head_dim;
  const Tensor no_norm;
  alignas(64) float head_row[kMaxHeadDim];
  for (int64_t head = 0; head < heads; ++head) {
    TakeHead(args, row, head, args.q_norm, head_row);
    StoreRow(head_row, dim, args.q_out, row * args.q_out.strides[0] + head * args.q_out.strides[1]);
  }
  if (slot < 0) return;
  angles.MoveTo(args.positions.as<const int64_t>()[row]);
  for (int64_t head = 0; head < kv_heads; ++head) {
    TakeHead(args, row, heads + head, args.k_norm, head_row);
    GetRowKernels().rotate(head_row, angles.cosine(), angles.sine(), angles.half());
    // YaRN's factor scales only the rotated dimensions; the angles contain it.
    StoreRow(head_row, dim, args.pages, PageElement(args.pages, slot, head, 0));
    TakeHead(args, row, heads + kv_heads + head, no_norm, head_row);
    StoreRow(head_row, dim, args.pages, PageElement(args.pages, slot, head, 1));
  }
}

// The numbers that threads may have in a loop over `rows`: all of them, even if there are fewer rows.
int64_t Numbers(int64_t rows, const Threads& threads) {
  return rows <= 1 ? std::max<int64_t>(rows, 0) : threads.count();
}

}  // namespace

void Embed(HostStream& stream, const EmbedArgs& args, const Threads& threads) {
  const int64_t vocab = args.table.sizes[0], hidden = args.table.sizes[1];
  const int64_t known = vocab + (args.extra.data == nullptr ? 0 : args.extra.sizes[0]);
  const int32_t* ids = args.ids.as<const int32_t>();
  FirstError bad;
  ForRows(threads, args.ids.sizes[0], [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t id = ids[row];
      if (id < 0 || id >= known) {
        bad.Note(row);
        continue;
      }
      const Tensor& source = id < vocab ? args.table : args.extra;
      LoadRow(source, (id < vocab ? id : id - vocab) * source.strides[0], hidden,
              args.out.as<float>() + row * args.out.strides[0]);
    }
  });
  if (const int64_t row = bad.first(); row != FirstError::kNone) {
    stream.Fail(absl::InternalError(absl::StrCat("Embed: row ", row, " has id ", ids[row], " of ", known)));
  }
}

void AddRmsNorm(const AddRmsNormArgs& args, const Threads& threads) {
  constexpr int64_t kPiece = 1024;
  const RowKernels& kernels = GetRowKernels();
  const int64_t hidden = args.residual.sizes[1];
  const float* weight = args.weight.as<const float>();
  ForRows(threads, args.residual.sizes[0], [&](int64_t begin, int64_t end) {
    alignas(64) float piece[kPiece];
    for (int64_t row = begin; row < end; ++row) {
      float* residual = args.residual.as<float>() + row * args.residual.strides[0];
      if (args.delta.data != nullptr) {
        const int64_t at = row * args.delta.strides[0];
        if (args.delta.dtype == Dtype::kF32) {
          kernels.add(args.delta.as<const float>() + at, hidden, residual);
        } else {
          for (int64_t i = 0; i < hidden; i += kPiece) {
            const int64_t count = std::min(kPiece, hidden - i);
            kernels.widen(args.delta.as<const uint16_t>() + at + i, count, piece);
            kernels.add(piece, count, residual + i);
          }
        }
      }
      const float factor = RmsFactor(kernels.sum_of_squares(residual, hidden), hidden, args.eps);
      if (args.out.dtype == Dtype::kF32) {
        kernels.scale(residual, factor, weight, hidden, args.out.as<float>() + row * args.out.strides[0]);
        continue;
      }
      for (int64_t i = 0; i < hidden; i += kPiece) {
        const int64_t count = std::min(kPiece, hidden - i);
        kernels.scale(residual + i, factor, weight + i, count, piece);
        kernels.narrow(piece, count, args.out.as<uint16_t>() + row * args.out.strides[0] + i);
      }
    }
  });
}

void QkvFinish(HostStream& stream, const QkvFinishArgs& args, const Threads& threads) {
  const int64_t slot_count = args.pages.sizes[0] * kBlockTokens;
  const int64_t* slots = args.slots.as<const int64_t>();
  FirstError bad;
  ForRows(threads, args.qkv.sizes[0], [&](int64_t begin, int64_t end) {
    AngleWalker angles(*args.rope, args.rope->attention_factor);
    for (int64_t row = begin; row < end; ++row) {
      const bool fits = slots[row] >= 0 && slots[row] < slot_count;
      if (!fits) bad.Note(row);
      FinishRow(args, row, fits ? slots[row] : -1, angles);
    }
  });
  if (const int64_t row = bad.first(); row != FirstError::kNone) {
    stream.Fail(
        absl::InternalError(absl::StrCat("QkvFinish: row ", row, " has slot ", slots[row], " of ", slot_count)));
  }
}

int64_t SampleWorkspaceBytes(int64_t rows, int64_t vocab, int64_t adjusted, const Threads& threads) {
  return Numbers(rows, threads) * vocab *
         static_cast<int64_t>(sizeof(SampleCandidate) + (adjusted > 0 ? sizeof(float) : 0));
}

void Sample(const SampleArgs& args, const Threads& threads) {
  const int64_t rows = static_cast<int64_t>(args.params.size()), vocab = args.logits.sizes[1];
  auto* const candidates = static_cast<SampleCandidate*>(args.workspace.data);
  // Behind the candidates of all threads.
  auto* const adjusted = reinterpret_cast<float*>(candidates + Numbers(rows, threads) * vocab);
  const auto size = static_cast<size_t>(vocab);
  threads.For(rows, [&](int64_t row, int thread) {
    const float* logits = args.logits.as<const float>() + row * args.logits.strides[0];
    if (!args.adjustments.empty() && args.adjustments[row].any()) {
      float* const own = adjusted + thread * vocab;
      AdjustLogits({logits, size}, args.adjustments[row], {own, size});
      logits = own;
    }
    int32_t& out = args.out.as<int32_t>()[row];
    if (args.params[row].temperature <= 0) {
      const int64_t token = GetRowKernels().argmax(logits, vocab);
      out = token < 0 ? kNoToken : static_cast<int32_t>(token);
    } else {
      out = SampleRow({logits, size}, args.params[row], {candidates + thread * vocab, size}).value_or(kNoToken);
    }
  });
}

void Logprobs(const LogprobsArgs& args, const Threads& threads) {
  threads.For(static_cast<int64_t>(args.rows.size()), [&](int64_t i, int) { LogprobsOf(args, i); });
}

}  // namespace kvlink::kernels::cpu
