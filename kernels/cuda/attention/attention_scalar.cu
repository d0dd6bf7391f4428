// Linked attention in f32 for any codec and head dimension, one warp per row of a tile: the lanes divide 32 tokens
// among themselves for the scores, and the dimensions for the values.
#include <cmath>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/attention_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/slabs/slab_view.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int64_t kWideDim = 1024;  // beyond this, a block is a single warp, to limit shared memory

// Shared by one warp.
struct WarpMemory {
  float* query;
  float* values;
  float* weights;  // [32]
  static int64_t Bytes(int64_t dim) { return 4 * (2 * dim + 32); }
  KVLINK_DEVICE explicit WarpMemory(int64_t dim) {
    query = reinterpret_cast<float*>(SharedMemory()) + ThreadIndex() / 32 * (2 * dim + 32);
    values = query + dim;
    weights = values + dim;
  }
};

template <int kCodec>
KVLINK_DEVICE float Element(const unsigned char* row, int64_t d) {
  if constexpr (kCodec == kCodecRawF32) return LoadF32(row + 4 * d);
  if constexpr (kCodec == kCodecRawBf16) return LoadBf16(row + 2 * d);
  return static_cast<float>(reinterpret_cast<const int8_t*>(row)[d]);  // q8, without its scale
}
template <int kCodec>
KVLINK_DEVICE int64_t RowBytes(int64_t dim) {
  return kCodec == kCodecRawF32 ? 4 * dim : kCodec == kCodecRawBf16 ? 2 * dim : dim;
}

KVLINK_DEVICE void TakeQuery(const AttentionLaunch& l, const TileRow& row, int32_t read, float* query) {
  const int64_t lane = ThreadIndex() % 32, from = row.row * l.q.strides[0] + row.head * l.q.strides[1];
  SyncWarp();
  for (int64_t i = lane; i < l.half; i += 32) {
    float cosine, sine;
    QueryAngle(l, row.row, read, i, &cosine, &sine);
    const float a = Load(l.q, from + i), b = Load(l.q, from + i + l.half);
    query[i] = a * cosine - b * sine;
    query[i + l.half] = b * cosine + a * sine;
  }
  for (int64_t d = 2 * l.half + lane; d < l.dim; d += 32) query[d] = Load(l.q, from + d);
  SyncWarp();
}

// Adds one step to a row's (largest, sum) and values.
template <int kCodec>
KVLINK_DEVICE void AddStep(const AttentionLaunch& l, const AttentionStep& step, int64_t kv_head, const RowView& view,
                           const WarpMemory& memory, float* largest, float* sum) {
  const int lane = ThreadIndex() % 32;
  const int64_t row_bytes = RowBytes<kCodec>(l.dim);
  const int32_t begin = view.begin > step.block_begin * kTokensOfBlock ? view.begin : step.block_begin * kTokensOfBlock;
  const int32_t end = view.end < step.block_end * kTokensOfBlock ? view.end : step.block_end * kTokensOfBlock;
  for (int32_t first = begin / 32 * 32; first < end; first += 32) {
    const KeyBlock block(l, step, kv_head, first / kTokensOfBlock, row_bytes);
    const int32_t in_block = first % kTokensOfBlock, token = first + lane;
    bool sees = token >= begin && token < end;
    if (sees && view.hidden >= 0) sees = (l.plan.hidden[view.hidden + token / 64] >> (token % 64) & 1) == 0;
    float score = kNothingSeen, weight_scale = 1;
    if (sees) {
      const unsigned char* key = block.keys + (in_block + lane) * row_bytes;
      float dot = 0;
      for (int64_t d = 0; d < l.dim; ++d) dot += memory.query[d] * Element<kCodec>(key, d);
      if constexpr (kCodec == kCodecQ8) {
        dot *= LoadF32(block.scales + 4 * (in_block + lane));
        weight_scale = LoadF32(block.scales + 4 * (block.held + in_block + lane));
      }
      score = FinishScore(l, dot);
    }
    float top = score;
    for (int mask = 16; mask > 0; mask /= 2) top = fmaxf(top, ShuffleXor(top, mask));
    if (top == kNothingSeen) continue;
    top = fmaxf(top, *largest);
    const float keep = Exp2(*largest - top), weight = Exp2(score - top);
    *sum = *sum * keep + WarpSum(weight);
    *largest = top;
    memory.weights[lane] = weight * weight_scale;
    SyncWarp();
    const int32_t count = end - first < 32 ? end - first : 32;
    for (int64_t d = lane; d < l.dim; d += 32) {
      float value = memory.values[d] * keep;
      for (int32_t t = 0; t < count; ++t) {
        // The value of a token that is not seen may be anything.
        if (memory.weights[t] != 0) {
          value += memory.weights[t] * Element<kCodec>(block.values + (in_block + t) * row_bytes, d);
        }
      }
      memory.values[d] = value;
    }
    SyncWarp();
  }
}

KVLINK_KERNEL(32 * kWarps, 4) ScalarAttentionKernel(AttentionLaunch l) {
  const Tile tile(l);
  const WarpMemory memory(l.dim);
  const int lane = ThreadIndex() % 32;
  for (int32_t index = ThreadIndex() / 32; index < tile.rows(); index += BlockThreads() / 32) {
    const TileRow row(l, tile, index);
    float largest = kNothingSeen, sum = 0;
    for (int64_t d = lane; d < l.dim; d += 32) memory.values[d] = 0;
    for (int32_t s = 0; s < tile.unit.steps; ++s) {
      const AttentionStep step = l.plan.steps[tile.unit.steps_begin + s];
      const RowView view(l, tile, step, row);
      if (view.begin >= view.end) continue;
      TakeQuery(l, row, view.read, memory.query);
      switch (l.plan.segments[step.segment].codec) {
        case kCodecRawF32:
          AddStep<kCodecRawF32>(l, step, tile.kv_head, view, memory, &largest, &sum);
          break;
        case kCodecRawBf16:
          AddStep<kCodecRawBf16>(l, step, tile.kv_head, view, memory, &largest, &sum);
          break;
        default:
          AddStep<kCodecQ8>(l, step, tile.kv_head, view, memory, &largest, &sum);
      }
    }
    const int64_t at = row.slot * l.heads + row.head;
    if (lane == 0) {
      l.states[2 * at] = largest;
      l.states[2 * at + 1] = sum;
    }
    for (int64_t d = lane; d < l.dim; d += 32) l.values[at * l.dim + d] = memory.values[d];
  }
}

}  // namespace

int LaunchScalarAttention(void* stream, const AttentionLaunch& l) {
  const int warps = l.dim > kWideDim ? 1 : kWarps;
  const int64_t parts = (l.heads / l.kv_heads + kTileRows - 1) / kTileRows;
  return Launch(stream, l.item_count, l.kv_heads * parts, 32 * warps, warps * WarpMemory::Bytes(l.dim),
                ScalarAttentionKernel, l);
}

}  // namespace kvlink::kernels::cuda
