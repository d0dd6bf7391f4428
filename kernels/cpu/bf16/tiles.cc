// A product of whole numbers, which is exact in any order of addition.
#include "kernels/cpu/bf16/tiles.h"

#include "kernels/bf16.h"

namespace kvlink::kernels::cpu {

bool MultipliesRight(MultiplyTiles multiply) {
  constexpr int64_t kSize = 2 * kTileSide, kInner = 2 * kTileDepth;
  const auto a_at = [](int64_t row, int64_t k) { return static_cast<float>((3 * row + 5 * k) % 11 - 5); };
  const auto b_at = [](int64_t k, int64_t column) { return static_cast<float>((7 * k + 2 * column) % 13 - 6); };
  alignas(64) uint16_t a[kSize][kInner], b[2][kInner / 2][kTileSide][2];
  alignas(64) float out[kSize][kSize];
  for (int64_t i = 0; i < kSize; ++i) {
    for (int64_t k = 0; k < kInner; ++k) {
      a[i][k] = FloatToBf16(a_at(i, k));
      b[i / kTileSide][k / 2][i % kTileSide][k % 2] = FloatToBf16(b_at(k, i));
    }
  }
  TileProduct product;
  product.a = {a, kInner * 2, kTileSide * kInner * 2, kTileDepth * 2};
  product.b = {b, kTileSide * 4, kInner / 2 * kTileSide * 4, kTileBytes};
  product.rows = product.columns = product.out_stride = kSize;
  product.steps = kInner / kTileDepth;
  product.out = out[0];
  multiply({&product, 1});
  for (int64_t row = 0; row < kSize; ++row) {
    for (int64_t column = 0; column < kSize; ++column) {
      float sum = 0;
      for (int64_t k = 0; k < kInner; ++k) sum += a_at(row, k) * b_at(k, column);
      if (out[row][column] != sum) return false;
    }
  }
  return true;
}

}  // namespace kvlink::kernels::cpu
