// Products of bf16 matrices in tiles: sums of products of 16 x 32 by 32 x 16 numbers, accumulated in f32.
//
// The blocking is written once, over a machine of eight tiles. One machine is AMX; the other computes the same in plain
// C++, so that everything above is tested on any CPU.
//
// AMX wants two permissions: the kernel's for the process (arch_prctl, asked for by HasAmx()), and a tile configuration
// (LDTILECFG) in every thread that uses tiles, which each call loads and releases: other code of the same thread
// (oneDNN) configures tiles of its own.
#ifndef KVLINK_KERNELS_CPU_AMX_H_
#define KVLINK_KERNELS_CPU_AMX_H_

#include <cstdint>

#include "absl/types/span.h"

namespace kvlink::kernels::cpu {

inline constexpr int64_t kTileSide = 16;   // rows of a tile, and columns of sums
inline constexpr int64_t kTileDepth = 32;  // bf16 numbers of a tile's row: the step of a product's inner dimension
inline constexpr int64_t kTileBytes = kTileSide * kTileDepth * 2;

// Where the tiles of one matrix lie: row r of tile t of step s is the 64 bytes at data + t * tile_stride + s *
// step_stride + r * row_stride. Strides are in bytes; no alignment is needed. All 16 rows of a tile are read.
struct TileOperand {
  const void* data = nullptr;
  int64_t row_stride = 0;
  int64_t tile_stride = 0;
  int64_t step_stride = 0;
};

// out[rows][columns] = A B. What lies in A beyond `rows`, or in B beyond `columns`, does not reach `out`; nothing is
// written beyond them. Each number of `out` depends on its row of A and its column of B alone.
struct TileProduct {
  TileOperand a;         // a tile is [16 rows][32 of the inner dimension]
  TileOperand b;         // a tile is [16 pairs of the inner dimension][16 columns][2]
  int64_t rows = 0;      // at least 1
  int64_t columns = 0;   // at least 1
  int64_t steps = 0;     // of 32 of the inner dimension
  float* out = nullptr;  // [rows][out_stride]
  int64_t out_stride = 0;
};

// Computes some products. Thread-safe.
using MultiplyTiles = void (*)(absl::Span<const TileProduct> products);

// Whether this CPU multiplies bf16 in AMX tiles, the kernel lets this process use them (asked for on the first call),
// and a small product comes out right: what a hypervisor announces need not be there.
bool HasAmx();
// nullptr where HasAmx() is false, or where the compiler that made this build knew no AMX.
MultiplyTiles AmxMultiply();
// Without AMX, for tests: slow.
void EmulatedMultiply(absl::Span<const TileProduct> products);

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_AMX_H_
