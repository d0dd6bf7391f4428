// How far recomputed keys and values are from cached ones.
#include "absl/strings/str_cat.h"
#include "kernels/ref/operations.h"
#include "kernels/ref/scalar.h"
#include "kernels/ref/segment_reader.h"

namespace kvlink::kernels::ref {
namespace {

constexpr int64_t kMaxHeadDim = 4096;  // validate.cc

// Sums of squares: of differences, and of the cached numbers.
struct Squares {
  double difference = 0, cached = 0;
  double Quotient() const { return difference == 0 ? 0 : difference / cached; }
};

double Deviation(const KvDeviationArgs& args, int64_t token, int64_t slot) {
  const int64_t kv_heads = args.pages.sizes[1], dim = args.pages.sizes[3];
  const SegmentReader reader(args.segment, args.layer, kv_heads, dim);
  double rows[2][kMaxHeadDim];  // key, value
  Squares squares[2];
  for (int64_t head = 0; head < kv_heads; ++head) {
    reader.Read(head, token, rows[0], rows[1]);
    Rotate(*args.rope, args.offset, 1, rows[0]);
    for (int64_t which = 0; which < 2; ++which) {
      for (int64_t d = 0; d < dim; ++d) {
        const double cached = rows[which][d];
        const double difference = Load(args.pages, PageElement(args.pages, slot, head, which, d)) - cached;
        squares[which].difference += difference * difference;
        squares[which].cached += cached * cached;
      }
    }
  }
  return squares[0].Quotient() + squares[1].Quotient();
}

}  // namespace

void KvDeviation(HostStream& stream, const KvDeviationArgs& args) {
  const int64_t slot_count = args.pages.sizes[0] * kBlockTokens;
  for (int64_t row = 0; row < args.out.sizes[0]; ++row) {
    const int64_t token = args.tokens.as<const int64_t>()[row], slot = args.slots.as<const int64_t>()[row];
    if (token < 0 || token >= args.segment.tokens) {
      stream.Fail(absl::InternalError(
          absl::StrCat("KvDeviation: row ", row, " has token ", token, " of ", args.segment.tokens)));
      continue;
    }
    if (slot < 0 || slot >= slot_count) {
      stream.Fail(absl::InternalError(absl::StrCat("KvDeviation: row ", row, " has slot ", slot, " of ", slot_count)));
      continue;
    }
    args.out.as<float>()[row] = static_cast<float>(Deviation(args, token, slot));
  }
}

}  // namespace kvlink::kernels::ref
