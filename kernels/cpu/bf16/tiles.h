// Products of bf16 matrices in tiles: sums of products of 16 x 32 by 32 x 16 numbers, accumulated in f32. AMX computes
// them (amx.h), and so does AVX512_BF16 (avx512_bf16.h); each has an emulation in plain C++, so that all code above is
// tested on any CPU.
#ifndef KVLINK_KERNELS_CPU_BF16_TILES_H_
#define KVLINK_KERNELS_CPU_BF16_TILES_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace kvlink::kernels::cpu {

inline constexpr int64_t kTileSide = 16;   // rows of a tile, and columns of sums
inline constexpr int64_t kTileDepth = 32;  // bf16 numbers in a tile's row: the step of a product's inner dimension
inline constexpr int64_t kTileBytes = kTileSide * kTileDepth * 2;

// The location of one matrix's tiles: row r of tile t of step s is the 64 bytes at data + t * tile_stride + s *
// step_stride + r * row_stride. Strides are in bytes; no alignment is needed. All 16 rows of a tile are read.
struct TileOperand {
  const void* data = nullptr;
  int64_t row_stride = 0;
  int64_t tile_stride = 0;
  int64_t step_stride = 0;

  const std::byte* Tile(int64_t tile, int64_t step) const {
    return static_cast<const std::byte*>(data) + tile * tile_stride + step * step_stride;
  }
};

// out[rows][columns] = A B. Contents of A beyond `rows`, or of B beyond `columns`, do not affect `out`; nothing is
// written beyond them. Each number of `out` depends only on its row of A and its column of B.
struct TileProduct {
  TileOperand a;         // a tile is [16 rows][32 of the inner dimension]
  TileOperand b;         // a tile is [16 pairs of the inner dimension][16 columns][2]
  int64_t rows = 0;      // at least 1
  int64_t columns = 0;   // at least 1
  int64_t steps = 0;     // steps of 32 along the inner dimension
  float* out = nullptr;  // [rows][out_stride]
  int64_t out_stride = 0;
};

// Computes several products. Thread-safe.
using MultiplyTiles = void (*)(absl::Span<const TileProduct> products);

// Whether a small product comes out right: a hypervisor may announce features that are missing.
bool MultipliesRight(MultiplyTiles multiply);

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_BF16_TILES_H_
