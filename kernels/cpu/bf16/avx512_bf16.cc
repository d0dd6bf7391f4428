// Blocks of rows by vectors of columns whose sums stay in registers. Functions are compiled for AVX512_BF16 one by one:
// the rest of the program, and what this file includes, must run anywhere.
#include "kernels/cpu/bf16/avx512_bf16.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/bf16.h"

#if defined(__x86_64__) && defined(KVLINK_COMPILES_AVX512_BF16)
#include <immintrin.h>
#define KVLINK_AVX512_BF16 1
#define KVLINK_FOR_AVX512_BF16 __attribute__((target("avx512f,avx512bf16")))
#ifdef __clang__
#define KVLINK_UNROLL _Pragma("unroll")
#else
#define KVLINK_UNROLL _Pragma("GCC unroll 16")
#endif
#else
#define KVLINK_AVX512_BF16 0
#endif

namespace kvlink::kernels::cpu {
namespace {

constexpr int64_t kLanes = kTileSide;        // columns of a vector
constexpr int64_t kPairs = kTileDepth / 2;   // of a step
constexpr int64_t kPair = sizeof(uint32_t);  // bytes

#if KVLINK_AVX512_BF16

constexpr int kMaxVectors = 4;
// Rows whose sums fit into 32 registers, beside one pair's columns and a broadcast, and are enough for the instruction
// not to wait for its own results.
constexpr int MaxRows(int vectors) { return vectors == kMaxVectors ? 6 : vectors > 1 ? 8 : 16; }

// The sums of some rows and vectors of columns. Strides are in bytes.
struct Block {
  const std::byte* a = nullptr;  // pair p of step s of row r is at a + s * a_step + r * a_row + p * kPair
  int64_t a_row = 0, a_step = 0;
  const std::byte* b = nullptr;  // the same pair of vector v is at b + s * b_step + p * b_pair + v * b_vector
  int64_t b_step = 0, b_pair = 0, b_vector = 0;
  int64_t steps = 0;  // of kPairs pairs
  int64_t rest = 0;   // pairs after them
  float* c = nullptr;
  int64_t c_stride = 0;           // floats
  int64_t last_columns = kLanes;  // of the last vector
  bool accumulate = false;
  const char* ahead = nullptr;
  int64_t ahead_lines = 0;  // prefetched every two pairs
};

// Adds the products of one pair of each row with the same pair of each column.
template <int kRows, int kVectors>
KVLINK_FOR_AVX512_BF16 __attribute__((always_inline)) inline void AddPair(__m512 (&sum)[kRows][kVectors],
                                                                          const std::byte* a, int64_t a_row,
                                                                          const std::byte* b, int64_t b_vector) {
  __m512i column[kVectors];
  KVLINK_UNROLL
  for (int v = 0; v < kVectors; ++v) column[v] = _mm512_loadu_si512(b + v * b_vector);
  KVLINK_UNROLL
  for (int r = 0; r < kRows; ++r) {
    int32_t pair;
    std::memcpy(&pair, a + r * a_row, sizeof(pair));
    const __m512i row = _mm512_set1_epi32(pair);
    KVLINK_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = _mm512_dpbf16_ps(sum[r][v], reinterpret_cast<__m512bh>(row), reinterpret_cast<__m512bh>(column[v]));
    }
  }
}

template <int kRows, int kVectors>
KVLINK_FOR_AVX512_BF16 void MultiplyBlock(const Block& block) {
  __m512 sum[kRows][kVectors];
  const auto last = static_cast<__mmask16>((1u << block.last_columns) - 1);
  KVLINK_UNROLL
  for (int r = 0; r < kRows; ++r) {
    KVLINK_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 lanes = v + 1 < kVectors ? static_cast<__mmask16>(0xffff) : last;
      sum[r][v] = block.accumulate ? _mm512_maskz_loadu_ps(lanes, block.c + r * block.c_stride + v * kLanes)
                                   : _mm512_setzero_ps();
    }
  }
  const std::byte *a = block.a, *b = block.b;
  const char* ahead = block.ahead;
  for (int64_t step = 0; step <= block.steps; ++step, a += block.a_step, b += block.b_step) {
    const int64_t pairs = step < block.steps ? kPairs : block.rest;
    int64_t p = 0;
    for (; p + 2 <= pairs; p += 2) {
      for (int64_t line = 0; line < block.ahead_lines; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
      AddPair(sum, a + p * kPair, block.a_row, b + p * block.b_pair, block.b_vector);
      AddPair(sum, a + (p + 1) * kPair, block.a_row, b + (p + 1) * block.b_pair, block.b_vector);
    }
    if (p < pairs) AddPair(sum, a + p * kPair, block.a_row, b + p * block.b_pair, block.b_vector);
  }
  KVLINK_UNROLL
  for (int r = 0; r < kRows; ++r) {
    KVLINK_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 lanes = v + 1 < kVectors ? static_cast<__mmask16>(0xffff) : last;
      _mm512_mask_storeu_ps(block.c + r * block.c_stride + v * kLanes, lanes, sum[r][v]);
    }
  }
}

using BlockFunction = void (*)(const Block& block);
template <int kVectors, int... kIndex>
constexpr std::array<BlockFunction, MaxRows(1)> BlocksOf(std::integer_sequence<int, kIndex...>) {
  return {MultiplyBlock<kIndex + 1, kVectors>...};
}
template <int kVectors>
constexpr std::array<BlockFunction, MaxRows(1)> BlocksOf() {
  return BlocksOf<kVectors>(std::make_integer_sequence<int, MaxRows(kVectors)>());
}
// By vectors and rows, each less one.
constexpr std::array<BlockFunction, MaxRows(1)> kBlocks[kMaxVectors] = {BlocksOf<1>(), BlocksOf<2>(), BlocksOf<3>(),
                                                                        BlocksOf<4>()};

// Computes `rows` rows of the block's vectors, in parts of about equal height; the first one prefetches.
void MultiplyRows(Block block, int64_t rows, int64_t vectors) {
  const int64_t most = MaxRows(static_cast<int>(vectors)), parts = (rows + most - 1) / most;
  const std::byte* a = block.a;
  float* c = block.c;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = rows * part / parts, count = rows * (part + 1) / parts - first;
    block.a = a + first * block.a_row;
    block.c = c + first * block.c_stride;
    kBlocks[vectors - 1][static_cast<size_t>(count - 1)](block);
    block.ahead_lines = 0;
  }
}

void MultiplyTilesInBlocks(absl::Span<const TileProduct> products) {
  for (const TileProduct& product : products) {
    for (int64_t row = 0; row < product.rows; row += kTileSide) {
      for (int64_t column = 0; column < product.columns; column += kMaxVectors * kLanes) {
        const int64_t columns = std::min(kMaxVectors * kLanes, product.columns - column);
        const int64_t vectors = (columns + kLanes - 1) / kLanes;
        Block block;
        block.a = product.a.Tile(row / kTileSide, 0);
        block.a_row = product.a.row_stride, block.a_step = product.a.step_stride;
        block.b = product.b.Tile(column / kLanes, 0);
        block.b_step = product.b.step_stride, block.b_pair = product.b.row_stride;
        block.b_vector = product.b.tile_stride;
        block.steps = product.steps;
        block.c = product.out + row * product.out_stride + column;
        block.c_stride = product.out_stride;
        block.last_columns = columns - (vectors - 1) * kLanes;
        MultiplyRows(block, std::min(kTileSide, product.rows - row), vectors);
      }
    }
  }
}

void MultiplyPairsInBlocks(const PairProduct& product) {
  const int64_t row_bytes = product.columns * kPair;
  for (int64_t column = 0; column < product.columns; column += kMaxVectors * kLanes) {
    Block block;
    block.a = reinterpret_cast<const std::byte*>(product.x);
    block.a_row = product.x_stride * kPair, block.a_step = kPairs * kPair;
    block.b = reinterpret_cast<const std::byte*>(product.y + column);
    block.b_step = kPairs * row_bytes, block.b_pair = row_bytes, block.b_vector = kLanes * kPair;
    block.steps = product.pairs / kPairs, block.rest = product.pairs % kPairs;
    block.c = product.c + column;
    block.c_stride = product.c_stride;
    block.accumulate = product.accumulate;
    block.ahead = static_cast<const char*>(product.ahead);
    block.ahead_lines = product.ahead_lines;
    MultiplyRows(block, product.rows, std::min<int64_t>(kMaxVectors, (product.columns - column) / kLanes));
  }
}

#endif

float Flush(float x) { return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }
float Even(uint32_t pair) { return Flush(Bf16ToFloat(static_cast<uint16_t>(pair))); }
float Odd(uint32_t pair) { return Flush(Bf16ToFloat(static_cast<uint16_t>(pair >> 16))); }

uint32_t PairAt(const std::byte* at) {
  uint32_t pair;
  std::memcpy(&pair, at, sizeof(pair));
  return pair;
}

}  // namespace

bool HasAvx512Bf16() {
#if KVLINK_AVX512_BF16
  static const bool has = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bf16") != 0 &&
                          MultipliesRight(MultiplyTilesInBlocks);
  return has;
#else
  return false;
#endif
}

MultiplyTiles Avx512Bf16Multiply() {
#if KVLINK_AVX512_BF16
  if (HasAvx512Bf16()) return MultiplyTilesInBlocks;
#endif
  return nullptr;
}

MultiplyPairs Avx512Bf16MultiplyPairs() {
#if KVLINK_AVX512_BF16
  if (HasAvx512Bf16()) return MultiplyPairsInBlocks;
#endif
  return nullptr;
}

float EmulatedDot(float sum, uint32_t x, uint32_t y) {
  sum = Flush(std::fma(Odd(x), Odd(y), Flush(sum)));
  return Flush(std::fma(Even(x), Even(y), sum));
}

void EmulatedAvx512Bf16Multiply(absl::Span<const TileProduct> products) {
  for (const TileProduct& product : products) {
    for (int64_t row = 0; row < product.rows; ++row) {
      for (int64_t column = 0; column < product.columns; ++column) {
        float sum = 0;
        for (int64_t step = 0; step < product.steps; ++step) {
          const std::byte* x = product.a.Tile(row / kTileSide, step) + row % kTileSide * product.a.row_stride;
          const std::byte* y = product.b.Tile(column / kLanes, step) + column % kLanes * kPair;
          for (int64_t p = 0; p < kPairs; ++p) {
            sum = EmulatedDot(sum, PairAt(x + p * kPair), PairAt(y + p * product.b.row_stride));
          }
        }
        product.out[row * product.out_stride + column] = sum;
      }
    }
  }
}

void EmulatedMultiplyPairs(const PairProduct& product) {
  for (int64_t row = 0; row < product.rows; ++row) {
    for (int64_t column = 0; column < product.columns; ++column) {
      float& c = product.c[row * product.c_stride + column];
      float sum = product.accumulate ? c : 0;
      for (int64_t p = 0; p < product.pairs; ++p) {
        sum = EmulatedDot(sum, product.x[row * product.x_stride + p], product.y[p * product.columns + column]);
      }
      c = sum;
    }
  }
}

}  // namespace kvlink::kernels::cpu
