// The mass of keys: a thread block adds up all that the 64 tokens of a block of a segment receive through one read, so
// that the order of the sum is fixed and nothing is shared. In f32 for any codec and head dimension: keys and turned
// queries pass through shared memory, 64 dimensions at a time. Questions are short, so this is far from the time of a
// prefill's attention.
#include <cmath>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/attention_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/slabs/slab_view.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 2 * kTokensOfBlock;  // two for each token, which share the queries
constexpr int kOwnQueries = 8;                // of a thread
constexpr int kQueries = 2 * kOwnQueries;     // in shared memory
constexpr int kDims = 64;                     // in shared memory
constexpr int kKeyStride = kDims + 1;         // so that the threads of a warp read different banks

struct Memory {
  float* keys;     // [kTokensOfBlock][kKeyStride]
  float* queries;  // [kQueries][kDims]
  static constexpr int64_t kBytes = 4 * (kTokensOfBlock * kKeyStride + kQueries * kDims);
  KVLINK_DEVICE Memory()
      : keys(reinterpret_cast<float*>(SharedMemory())), queries(keys + kTokensOfBlock * kKeyStride) {}
};

KVLINK_DEVICE int64_t RowBytes(int32_t codec, int64_t dim) {
  return codec == kCodecRawF32 ? 4 * dim : codec == kCodecRawBf16 ? 2 * dim : dim;
}
KVLINK_DEVICE float KeyElement(const KeyBlock& block, int32_t codec, int64_t row_bytes, int64_t token, int64_t d) {
  const unsigned char* row = block.keys + token * row_bytes;
  if (codec == kCodecRawF32) return LoadF32(row + 4 * d);
  if (codec == kCodecRawBf16) return LoadBf16(row + 2 * d);
  return LoadF32(block.scales + 4 * token) * static_cast<float>(reinterpret_cast<const int8_t*>(row)[d]);
}

// Element d of a query, turned to the offset of a read.
KVLINK_DEVICE float QueryElement(const AttentionLaunch& l, int32_t row, int64_t head, int32_t read, int64_t d) {
  const int64_t from = row * l.q.strides[0] + head * l.q.strides[1];
  if (d >= 2 * l.half) return Load(l.q, from + d);
  const int64_t i = d < l.half ? d : d - l.half;
  float cosine, sine;
  QueryAngle(l, row, read, i, &cosine, &sine);
  const float a = Load(l.q, from + i), b = Load(l.q, from + i + l.half);
  return d < l.half ? a * cosine - b * sine : b * cosine + a * sine;
}

// The token of a thread: which rows see it.
struct Seen {
  bool hidden;
  int64_t position;

  KVLINK_DEVICE Seen(const AttentionLaunch& l, const AttentionSegment& segment, const AttentionRead& read,
                     int64_t token) {
    hidden = token >= segment.tokens ||
             (read.hidden >= 0 && (l.plan.hidden[read.hidden + token / 64] >> (token % 64) & 1) != 0);
    position = hidden ? 0 : segment.positions < 0 ? read.offset + token : l.plan.positions[segment.positions + token];
  }
  KVLINK_DEVICE bool By(const AttentionLaunch& l, int32_t row) const {
    const int64_t at = l.plan.row_positions[row];
    return !hidden && position <= at && (l.window == 0 || position > at - l.window);
  }
};

KVLINK_KERNEL(kThreads, 3) KeyMassKernel(KeyMassLaunch launch) {
  const AttentionLaunch& l = launch.attention;
  const KeyMassRead read = launch.reads[BlockY()];
  const AttentionSegment segment = l.plan.segments[read.segment];
  const int64_t first = BlockX() * kTokensOfBlock;
  if (first >= segment.tokens) return;
  const Memory memory;
  AttentionStep step;
  step.segment = read.segment;
  const int64_t row_bytes = RowBytes(segment.codec, l.dim), group = l.heads / l.kv_heads;
  const int64_t pairs = (read.row_end - read.row_begin) * group;  // (row, head of a kv head)
  const int own = ThreadIndex() % kTokensOfBlock, part = ThreadIndex() / kTokensOfBlock * kOwnQueries;
  const Seen seen(l, segment, l.plan.reads[read.read], first + own);
  float mass = 0;
  for (int64_t kv_head = 0; kv_head < l.kv_heads; ++kv_head) {
    const KeyBlock block(l, step, kv_head, static_cast<int32_t>(BlockX()), row_bytes);
    for (int64_t first_pair = 0; first_pair < pairs; first_pair += kQueries) {
      float dots[kOwnQueries] = {};
      for (int64_t first_dim = 0; first_dim < l.dim; first_dim += kDims) {
        SyncThreads();
        for (int i = ThreadIndex(); i < kTokensOfBlock * kDims; i += kThreads) {
          const int64_t token = i / kDims, d = first_dim + i % kDims;
          const bool exists = token < block.tokens && d < l.dim;
          memory.keys[token * kKeyStride + i % kDims] =
              exists ? KeyElement(block, segment.codec, row_bytes, token, d) : 0;
        }
        for (int i = ThreadIndex(); i < kQueries * kDims; i += kThreads) {
          const int64_t pair = first_pair + i / kDims, d = first_dim + i % kDims;
          const int32_t row = read.row_begin + static_cast<int32_t>(pair / group);
          memory.queries[i] =
              pair < pairs && d < l.dim ? QueryElement(l, row, kv_head * group + pair % group, read.read, d) : 0;
        }
        SyncThreads();
        for (int d = 0; d < kDims; ++d) {
          const float key = memory.keys[own * kKeyStride + d];
#pragma unroll
          for (int i = 0; i < kOwnQueries; ++i) dots[i] += memory.queries[(part + i) * kDims + d] * key;
        }
      }
#pragma unroll
      for (int i = 0; i < kOwnQueries; ++i) {
        const int64_t pair = first_pair + part + i;
        const int32_t row = read.row_begin + static_cast<int32_t>(pair / group);
        if (pair >= pairs || !seen.By(l, row)) continue;
        const float lse = l.lse[row * l.lse_strides[0] + (kv_head * group + pair % group) * l.lse_strides[1]];
        mass += Exp2(FinishScore(l, dots[i]) - lse * kLog2E);
      }
    }
  }
  SyncThreads();
  memory.queries[ThreadIndex()] = mass;
  SyncThreads();
  if (part == 0 && !seen.hidden) {
    launch.mass[read.mass_begin + first + own] += mass + memory.queries[kTokensOfBlock + own];
  }
}

}  // namespace

int LaunchKeyMass(void* stream, const KeyMassLaunch& launch) {
  return Launch(stream, launch.max_blocks, launch.read_count, kThreads, Memory::kBytes, KeyMassKernel, launch);
}

}  // namespace kvlink::kernels::cuda
