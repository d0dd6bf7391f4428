// How far recomputed keys and values are from cached ones. All rows rotate by the same angles; sums of a head are f32,
// those of all heads f64.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/angles.h"
#include "kernels/cpu/attention/attention_reader.h"
#include "kernels/cpu/element_rows.h"
#include "kernels/cpu/first_error.h"
#include "kernels/cpu/operations.h"

namespace kvlink::kernels::cpu {
namespace {

// Sums of squares: of differences, and of the cached numbers.
struct Squares {
  double difference = 0, cached = 0;
  double Quotient() const { return difference == 0 ? 0 : difference / cached; }
};

double Deviation(const KvDeviationArgs& args, const AttentionSizes& sizes, const AngleWalker& angles, int64_t token,
                 int64_t slot) {
  const RowKernels& kernels = GetRowKernels();
  alignas(64) float cached[kMaxHeadDim], fresh[kMaxHeadDim];
  Squares keys, values;
  for (int64_t head = 0; head < sizes.kv_heads; ++head) {
    const SegmentReader reader(args.segment, args.layer, head, sizes);
    const int64_t in_block = token % kBlockTokens;
    for (const bool value : {false, true}) {
      const F32Rows row =
          reader.Rows(token / kBlockTokens, in_block, in_block + 1, value, /*whole_vectors=*/false, cached);
      if (row.data != cached) std::memcpy(cached, row.data, static_cast<size_t>(sizes.dim) * sizeof(float));
      if (!value) kernels.rotate(cached, angles.cosine(), angles.sine(), angles.half());
      LoadRow(args.pages, PageElement(args.pages, slot, head, value ? 1 : 0), sizes.dim, fresh);
      for (int64_t d = 0; d < sizes.dim; ++d) fresh[d] -= cached[d];
      Squares& squares = value ? values : keys;
      squares.difference += static_cast<double>(kernels.sum_of_squares(fresh, sizes.dim));
      squares.cached += static_cast<double>(kernels.sum_of_squares(cached, sizes.dim));
    }
  }
  return keys.Quotient() + values.Quotient();
}

}  // namespace

void KvDeviation(HostStream& stream, const KvDeviationArgs& args, const Threads& threads) {
  AttentionParams params;
  params.heads = params.kv_heads = args.pages.sizes[1];
  params.head_dim = args.pages.sizes[3];
  const AttentionSizes sizes(params, GetAttentionKernels().lanes, GetAttentionKernels().panel_vectors);
  const int64_t slot_count = args.pages.sizes[0] * kBlockTokens;
  const int64_t* tokens = args.tokens.as<const int64_t>();
  const int64_t* slots = args.slots.as<const int64_t>();
  FirstError bad_token, bad_slot;
  ForRows(threads, args.out.sizes[0], [&](int64_t begin, int64_t end) {
    AngleWalker angles(*args.rope, 1);
    angles.MoveTo(args.offset);
    for (int64_t row = begin; row < end; ++row) {
      if (tokens[row] < 0 || tokens[row] >= args.segment.tokens) {
        bad_token.Note(row);
      } else if (slots[row] < 0 || slots[row] >= slot_count) {
        bad_slot.Note(row);
      } else {
        args.out.as<float>()[row] = static_cast<float>(Deviation(args, sizes, angles, tokens[row], slots[row]));
      }
    }
  });
  if (const int64_t row = bad_token.first(); row != FirstError::kNone) {
    stream.Fail(absl::InternalError(
        absl::StrCat("KvDeviation: row ", row, " has token ", tokens[row], " of ", args.segment.tokens)));
  }
  if (const int64_t row = bad_slot.first(); row != FirstError::kNone) {
    stream.Fail(
        absl::InternalError(absl::StrCat("KvDeviation: row ", row, " has slot ", slots[row], " of ", slot_count)));
  }
}

}  // namespace kvlink::kernels::cpu
