// Linked attention of raw-bf16 and q8 segments on tensor cores: tiles of 64 rows (heads of a kv head, of the rows that
// read the same keys), 16 per warp, against blocks of 64 tokens. Keys and values are loaded into shared memory while
// the previous block is computed, once for all rows of the tile; q8 is widened on the way, its scales applied to scores
// and weights. A query is turned in f32 to the offset of its read, and rounded once.
#include <cmath>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/attention_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/slabs/slab_view.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = 4;
constexpr int kWarpRows = 16;
constexpr int kTokens = kTokensOfBlock;
static_assert(kWarps * kWarpRows == kTileRows);

// 16 bytes of padding per row, so that the eight rows ldmatrix reads together lie in different banks.
template <int kDim>
struct Shared {
  static constexpr int kStride = kDim + 8;
  uint16_t query[kTileRows][kStride];
  uint16_t keys[2][kTokens][kStride];
  uint16_t values[2][kTokens][kStride];
  float scales[2][2][kTokens];  // [buffer][keys, values]
  int64_t row_hidden[kTileRows], row_query[kTileRows];
  int32_t row_begin[kTileRows], row_end[kTileRows], row_read[kTileRows], row_row[kTileRows];
  int32_t warp_begin[kWarps], warp_end[kWarps];
};

// The smallest shared memory per block on devices of compute capability 8 or 9.
static_assert(sizeof(Shared<128>) <= 99 << 10);

struct alignas(16) Bytes16 {
  uint32_t words[4];
};
struct alignas(8) Bytes8 {
  uint32_t words[2];
};

// Two int8 as two bf16, which hold them exactly.
KVLINK_DEVICE uint32_t Widen(uint32_t word, int shift) {
  return PackBf16(static_cast<float>(static_cast<int8_t>(word >> shift)),
                  static_cast<float>(static_cast<int8_t>(word >> (shift + 8))));
}

// 64 rows of keys or values; rows from `tokens` on become zeros.
template <int kDim>
KVLINK_DEVICE void LoadBf16Rows(const unsigned char* from, int32_t tokens, uint16_t (*to)[kDim + 8]) {
  if (reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    constexpr int kChunks = kDim / 8;
    for (int i = ThreadIndex(); i < kTokens * kChunks; i += kThreads) {
      const int row = i / kChunks, column = i % kChunks * 8;
      const bool valid = row < tokens;
      CopyAsync<16>(&to[row][column], valid ? from + (row * kDim + column) * 2 : from, valid);
    }
    return;
  }
  constexpr int kChunks = kDim / 2;
  for (int i = ThreadIndex(); i < kTokens * kChunks; i += kThreads) {
    const int row = i / kChunks, column = i % kChunks * 2;
    const bool valid = row < tokens;
    CopyAsync<4>(&to[row][column], valid ? from + (row * kDim + column) * 2 : from, valid);
  }
}
template <int kDim>
KVLINK_DEVICE void LoadQ8Rows(const unsigned char* from, int32_t tokens, uint16_t (*to)[kDim + 8]) {
  if (reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    constexpr int kChunks = kDim / 16;
    for (int i = ThreadIndex(); i < kTokens * kChunks; i += kThreads) {
      const int row = i / kChunks, column = i % kChunks * 16;
      Bytes16 codes{};
      if (row < tokens) codes = *reinterpret_cast<const Bytes16*>(from + row * kDim + column);
      Bytes16 wide[2];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        wide[j / 2].words[j % 2 * 2] = Widen(codes.words[j], 0);
        wide[j / 2].words[j % 2 * 2 + 1] = Widen(codes.words[j], 16);
      }
      *reinterpret_cast<Bytes16*>(&to[row][column]) = wide[0];
      *reinterpret_cast<Bytes16*>(&to[row][column + 8]) = wide[1];
    }
    return;
  }
  constexpr int kChunks = kDim / 4;
  for (int i = ThreadIndex(); i < kTokens * kChunks; i += kThreads) {
    const int row = i / kChunks, column = i % kChunks * 4;
    const uint32_t codes = row < tokens ? *reinterpret_cast<const uint32_t*>(from + row * kDim + column) : 0;
    *reinterpret_cast<Bytes8*>(&to[row][column]) = {{Widen(codes, 0), Widen(codes, 16)}};
  }
}

template <int kDim>
KVLINK_DEVICE void LoadBlock(const AttentionLaunch& l, const AttentionStep& step, int64_t kv_head, int32_t block,
                             bool q8, int buffer, Shared<kDim>& shared) {
  const KeyBlock from(l, step, kv_head, block, q8 ? kDim : 2 * kDim);
  if (!q8) {
    LoadBf16Rows<kDim>(from.keys, from.tokens, shared.keys[buffer]);
    LoadBf16Rows<kDim>(from.values, from.tokens, shared.values[buffer]);
    return;
  }
  LoadQ8Rows<kDim>(from.keys, from.tokens, shared.keys[buffer]);
  LoadQ8Rows<kDim>(from.values, from.tokens, shared.values[buffer]);
  for (int i = ThreadIndex(); i < 2 * kTokens; i += kThreads) {
    const int which = i / kTokens, token = i % kTokens;
    shared.scales[buffer][which][token] =
        token < from.tokens ? LoadF32(from.scales + 4 * (which * from.held + token)) : 0;
  }
}

// The 16 rows of a warp: their identity, and the tokens of the step they see.
template <int kDim>
KVLINK_DEVICE void FindRows(const AttentionLaunch& l, const Tile& tile, const AttentionStep& step,
                            Shared<kDim>& shared) {
  const int lane = ThreadIndex() % 32, warp = ThreadIndex() / 32, index = warp * kWarpRows + lane;
  int32_t begin = 0x7fffffff, end = 0;
  if (lane < kWarpRows) {
    shared.row_begin[index] = shared.row_end[index] = 0;
    shared.row_hidden[index] = -1;
    if (index < tile.rows()) {
      const TileRow row(l, tile, index);
      const RowView view(l, tile, step, row);
      shared.row_begin[index] = view.begin;
      shared.row_end[index] = view.end;
      shared.row_hidden[index] = view.hidden;
      shared.row_read[index] = view.read;
      shared.row_row[index] = row.row;
      shared.row_query[index] = row.row * l.q.strides[0] + row.head * l.q.strides[1];
      if (view.begin < view.end) {
        begin = view.begin;
        end = view.end;
      }
    }
  }
  for (int mask = 8; mask > 0; mask /= 2) {
    const int32_t other_begin = ShuffleXor(begin, mask), other_end = ShuffleXor(end, mask);
    begin = other_begin < begin ? other_begin : begin;
    end = other_end > end ? other_end : end;
  }
  if (lane == 0) {
    shared.warp_begin[warp] = begin;
    shared.warp_end[warp] = end;
  }
}

// Their queries, turned for the step. Flat loops keep many loads in flight.
template <int kDim>
KVLINK_DEVICE void TurnQueries(const AttentionLaunch& l, const Tile& tile, Shared<kDim>& shared) {
  const int lane = ThreadIndex() % 32, first = ThreadIndex() / 32 * kWarpRows;
  const int left = tile.rows() - first, rows = left < 0 ? 0 : left < kWarpRows ? left : kWarpRows;
  const int half = static_cast<int>(l.half), rest = kDim - 2 * half;
#pragma unroll 4
  for (int i = lane; i < rows * half; i += 32) {
    const int index = first + i / half, d = i % half;
    float cosine, sine;
    QueryAngle(l, shared.row_row[index], shared.row_read[index], d, &cosine, &sine);
    const int64_t from = shared.row_query[index] + d;
    const float a = Load(l.q, from), b = Load(l.q, from + half);
    shared.query[index][d] = ToBf16(a * cosine - b * sine);
    shared.query[index][d + half] = ToBf16(b * cosine + a * sine);
  }
  for (int i = lane; i < rows * rest; i += 32) {
    const int index = first + i / rest, d = 2 * half + i % rest;
    shared.query[index][d] = ToBf16(Load(l.q, shared.row_query[index] + d));
  }
  for (int i = rows * kDim + lane; i < kWarpRows * kDim; i += 32) shared.query[first + i / kDim][i % kDim] = 0;
}

// The two rows of the 16 whose scores and values a lane holds, lane / 4 and lane / 4 + 8: their running softmax. `sum`
// is the lane's own part.
struct RowState {
  float largest = kNothingSeen, sum = 0;
};

// Adds a block of keys to the rows of a warp.
template <int kDim>
KVLINK_DEVICE void AddBlock(const AttentionLaunch& l, int32_t block, bool q8, int buffer, const Shared<kDim>& shared,
                            RowState (&states)[2], float (&values)[kDim / 8][4]) {
  const int lane = ThreadIndex() % 32, first = ThreadIndex() / 32 * kWarpRows;
  const int matrix = lane / 8, in_matrix = lane % 8;
  SyncWarp();  // the next instructions are executed by the whole warp
  float scores[kTokens / 8][4];
#pragma unroll
  for (int i = 0; i < kTokens / 8; ++i) {
    scores[i][0] = scores[i][1] = scores[i][2] = scores[i][3] = 0;
  }
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    uint32_t a[4];
    LoadMatrices(a, &shared.query[first + matrix % 2 * 8 + in_matrix][d + matrix / 2 * 8]);
#pragma unroll
    for (int i = 0; i < kTokens / 16; ++i) {
      uint32_t b[4];
      LoadMatrices(b, &shared.keys[buffer][16 * i + matrix / 2 * 8 + in_matrix][d + matrix % 2 * 8]);
      MultiplyAdd(scores[2 * i], a, b[0], b[1]);
      MultiplyAdd(scores[2 * i + 1], a, b[2], b[3]);
    }
  }
  // Element j of scores[i] is row lane / 4 + 8 (j / 2), token 8i + 2 (lane % 4) + j % 2.
  const int column = 2 * (lane % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + lane / 4 + 8 * half;
    const int32_t begin = shared.row_begin[row] - block * kTokens, end = shared.row_end[row] - block * kTokens;
    const int64_t hidden = shared.row_hidden[row];
    const uint64_t hides = hidden >= 0 && end > 0 ? l.plan.hidden[hidden + block] : 0;
    float largest = states[half].largest;
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int token = 8 * i + column + j;
        float& score = scores[i][2 * half + j];
        if (q8) score *= shared.scales[buffer][0][token];
        score = FinishScore(l, score);
        if (token < begin || token >= end || (hides >> token & 1) != 0) score = kNothingSeen;
        largest = fmaxf(largest, score);
      }
    }
    largest = fmaxf(largest, ShuffleXor(largest, 1));
    largest = fmaxf(largest, ShuffleXor(largest, 2));
    const float from = largest == kNothingSeen ? 0 : largest;
    const float keep = Exp2(states[half].largest - from);
    states[half].largest = largest;
    float sum = states[half].sum * keep;
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = scores[i][2 * half + j];
        score = Exp2(score - from);
        sum += score;
        if (q8) score *= shared.scales[buffer][1][8 * i + column + j];
      }
    }
    states[half].sum = sum;
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      values[i][2 * half] *= keep;
      values[i][2 * half + 1] *= keep;
    }
  }
  // The weights already have the layout of the next product's left operand.
#pragma unroll
  for (int i = 0; i < kTokens / 16; ++i) {
    uint32_t a[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float(&pair)[4] = scores[2 * i + j / 2];
      a[j] = PackBf16(pair[j % 2 * 2], pair[j % 2 * 2 + 1]);
    }
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t b[4];
      LoadMatricesTransposed(b, &shared.values[buffer][16 * i + matrix % 2 * 8 + in_matrix][16 * d + matrix / 2 * 8]);
      MultiplyAdd(values[2 * d], a, b[0], b[1]);
      MultiplyAdd(values[2 * d + 1], a, b[2], b[3]);
    }
  }
}

template <int kDim>
KVLINK_DEVICE void WriteRows(const AttentionLaunch& l, const Tile& tile, const RowState (&states)[2],
                             const float (&values)[kDim / 8][4]) {
  const int lane = ThreadIndex() % 32, first = ThreadIndex() / 32 * kWarpRows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = states[half].sum;
    sum += ShuffleXor(sum, 1);
    sum += ShuffleXor(sum, 2);
    const int index = first + lane / 4 + 8 * half;
    if (index >= tile.rows()) continue;
    const TileRow row(l, tile, index);
    const int64_t at = row.slot * l.heads + row.head;
    if (lane % 4 == 0) {
      l.states[2 * at] = states[half].largest;
      l.states[2 * at + 1] = sum;
    }
    float* to = l.values + at * kDim + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      to[8 * i] = values[i][2 * half];
      to[8 * i + 1] = values[i][2 * half + 1];
    }
  }
}

template <int kDim>
KVLINK_KERNEL(kThreads, 2)
TensorAttentionKernel(AttentionLaunch l) {
  Shared<kDim>& shared = *reinterpret_cast<Shared<kDim>*>(SharedMemory());
  const Tile tile(l);
  const int warp = ThreadIndex() / 32;
  RowState states[2];
  float values[kDim / 8][4];
#pragma unroll
  for (int i = 0; i < kDim / 8; ++i) values[i][0] = values[i][1] = values[i][2] = values[i][3] = 0;
  for (int32_t s = 0; s < tile.unit.steps; ++s) {
    const AttentionStep step = l.plan.steps[tile.unit.steps_begin + s];
    const bool q8 = l.plan.segments[step.segment].codec == kCodecQ8;
    SyncThreads();  // the previous step has been read completely
    FindRows<kDim>(l, tile, step, shared);
    SyncThreads();
    int32_t begin = shared.warp_begin[0], end = shared.warp_end[0];
    for (int w = 1; w < kWarps; ++w) {
      begin = shared.warp_begin[w] < begin ? shared.warp_begin[w] : begin;
      end = shared.warp_end[w] > end ? shared.warp_end[w] : end;
    }
    const int32_t own_begin = shared.warp_begin[warp], own_end = shared.warp_end[warp];
    const int32_t first = begin / kTokens > step.block_begin ? begin / kTokens : step.block_begin;
    const int32_t most = (end + kTokens - 1) / kTokens, last = most < step.block_end ? most : step.block_end;
    if (first >= last) continue;
    LoadBlock<kDim>(l, step, tile.kv_head, first, q8, 0, shared);
    CopyCommit();
    TurnQueries<kDim>(l, tile, shared);
    for (int32_t block = first; block < last; ++block) {
      const int buffer = (block - first) % 2;
      CopyWait<0>();
      SyncThreads();  // this block is complete, and the other buffer has been read completely
      if (block + 1 < last) LoadBlock<kDim>(l, step, tile.kv_head, block + 1, q8, 1 - buffer, shared);
      CopyCommit();
      if (block * kTokens < own_end && (block + 1) * kTokens > own_begin) {
        AddBlock<kDim>(l, block, q8, buffer, shared, states, values);
      }
    }
  }
  WriteRows<kDim>(l, tile, states, values);
}

template <int kDim>
int LaunchDim(void* stream, const AttentionLaunch& l) {
  const int64_t parts = (l.heads / l.kv_heads + kTileRows - 1) / kTileRows;
  return Launch(stream, l.item_count, l.kv_heads * parts, kThreads, sizeof(Shared<kDim>), TensorAttentionKernel<kDim>,
                l);
}

}  // namespace

bool TensorAttentionHas(int64_t dim) { return dim == 64 || dim == 80 || dim == 96 || dim == 128; }

int LaunchTensorAttention(void* stream, const AttentionLaunch& launch) {
  switch (launch.dim) {
    case 64:
      return LaunchDim<64>(stream, launch);
    case 80:
      return LaunchDim<80>(stream, launch);
    case 96:
      return LaunchDim<96>(stream, launch);
    default:
      return LaunchDim<128>(stream, launch);
  }
}

}  // namespace kvlink::kernels::cuda
