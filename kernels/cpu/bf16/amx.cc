// AMX tiles in inline assembly: the compiler's intrinsics need a target that would allow it to use AMX anywhere, and
// the kernel must be asked for permission first.
#include "kernels/cpu/bf16/amx.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/bf16.h"

#if defined(__x86_64__) && defined(__linux__)
#define KVLINK_AMX_ASK 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define KVLINK_AMX_ASK 0
#endif
#if KVLINK_AMX_ASK && defined(KVLINK_ASSEMBLES_AMX)
#define KVLINK_AMX_RUN 1
#else
#define KVLINK_AMX_RUN 0
#endif

namespace kvlink::kernels::cpu {
namespace {

// A machine has tiles 0 to 7 of 16 rows of 64 bytes, initially undefined:
//   Zero<t>()                   tile t = 0
//   Load<t>(from, stride)       row r of tile t = 64 bytes at from + r * stride
//   Store<t>(to, stride)        the reverse
//   DotBf16<c, a, b>()          c[m][n] += sum over k of a[m][2k] * b[k][2n] + a[m][2k + 1] * b[k][2n + 1]

#if KVLINK_AMX_RUN

// The operand of LDTILECFG: eight tiles of 16 rows of 64 bytes; the entries of further tiles must be zero.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

// Instructions are written out instead of using the compiler's header: GCC's _tile_loadd and its kin paste the number
// of the tile as text, which a template does not have, and do not declare that they read memory.
class AmxTiles {
 public:
  AmxTiles() { asm volatile("ldtilecfg %0" : : "m"(kConfig)); }
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int kTile>
  void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void Store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kSum, int kA, int kB>
  void DotBf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }

 private:
  static constexpr TileConfig kConfig{};
};

#endif

// TDPBF16PS as defined in Intel's Software Developer's Manual (volume 2, "TDPBF16PS"): for each row and column, two
// running sums, over the even and over the odd numbers, are added to each other and then to the tile. Each step rounds
// to nearest even; denormal numbers count as zero, before and after. A product of two bf16 numbers is exact in f32
// (except if it underflows, 2^-149 at most), so a multiplication and an addition equal the fused operation of the
// manual.
class EmulatedTiles {
 public:
  template <int kTile>
  void Zero() {
    std::memset(tiles_[kTile], 0, sizeof(Tile));
  }
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    for (int64_t r = 0; r < kTileSide; ++r) {
      std::memcpy(tiles_[kTile][r], static_cast<const std::byte*>(from) + r * stride, kRowBytes);
    }
  }
  template <int kTile>
  void Store(void* to, int64_t stride) {
    for (int64_t r = 0; r < kTileSide; ++r) {
      std::memcpy(static_cast<std::byte*>(to) + r * stride, tiles_[kTile][r], kRowBytes);
    }
  }
  template <int kSum, int kA, int kB>
  void DotBf16() {
    Halves a, b;
    Widen(tiles_[kA], a);
    Widen(tiles_[kB], b);
    for (int64_t m = 0; m < kTileSide; ++m) {
      float even[kTileSide] = {}, odd[kTileSide] = {}, sum[kTileSide];
      for (int64_t k = 0; k < kTileSide; ++k) {
        for (int64_t n = 0; n < kTileSide; ++n) {
          even[n] = Flush(even[n] + a.even[m][k] * b.even[k][n]);
          odd[n] = Flush(odd[n] + a.odd[m][k] * b.odd[k][n]);
        }
      }
      std::memcpy(sum, tiles_[kSum][m], kRowBytes);
      for (int64_t n = 0; n < kTileSide; ++n) sum[n] = Flush(Flush(sum[n]) + Flush(even[n] + odd[n]));
      std::memcpy(tiles_[kSum][m], sum, kRowBytes);
    }
  }

 private:
  static constexpr int64_t kRowBytes = kTileBytes / kTileSide;
  using Tile = std::byte[kTileSide][kRowBytes];
  struct Halves {
    float even[kTileSide][kTileSide], odd[kTileSide][kTileSide];
  };

  static float Flush(float x) { return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }
  static void Widen(const Tile& tile, Halves& to) {
    for (int64_t r = 0; r < kTileSide; ++r) {
      uint16_t row[kTileDepth];
      std::memcpy(row, tile[r], kRowBytes);
      for (int64_t i = 0; i < kTileSide; ++i) {
        to.even[r][i] = Flush(Bf16ToFloat(row[2 * i]));
        to.odd[r][i] = Flush(Bf16ToFloat(row[2 * i + 1]));
      }
    }
  }

  alignas(64) Tile tiles_[8];
};

// Writes the part of the tile of sums at (row, column) that lies within `out`.
template <int kTile, typename Machine>
void StoreSums(Machine& machine, const TileProduct& product, int64_t row, int64_t column) {
  float* out = product.out + row * product.out_stride + column;
  const int64_t rows = std::min(kTileSide, product.rows - row), columns = std::min(kTileSide, product.columns - column);
  if (rows == kTileSide && columns == kTileSide) {
    machine.template Store<kTile>(out, product.out_stride * 4);
    return;
  }
  alignas(64) float whole[kTileSide][kTileSide];
  machine.template Store<kTile>(whole, kTileSide * 4);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(out + r * product.out_stride, whole[r], static_cast<size_t>(columns) * 4);
  }
}

// kRows x kColumns tiles of sums from tile (row, column) on: tiles 0 to 3 hold sums, 4 and 5 A, 6 and 7 B.
template <int kRows, int kColumns, typename Machine>
void MultiplyBlock(Machine& machine, const TileProduct& product, int64_t row, int64_t column) {
  machine.template Zero<0>();
  if constexpr (kColumns > 1) machine.template Zero<1>();
  if constexpr (kRows > 1) machine.template Zero<2>();
  if constexpr (kRows > 1 && kColumns > 1) machine.template Zero<3>();
  for (int64_t step = 0; step < product.steps; ++step) {
    machine.template Load<4>(product.a.Tile(row, step), product.a.row_stride);
    machine.template Load<6>(product.b.Tile(column, step), product.b.row_stride);
    machine.template DotBf16<0, 4, 6>();
    if constexpr (kColumns > 1) {
      machine.template Load<7>(product.b.Tile(column + 1, step), product.b.row_stride);
      machine.template DotBf16<1, 4, 7>();
    }
    if constexpr (kRows > 1) {
      machine.template Load<5>(product.a.Tile(row + 1, step), product.a.row_stride);
      machine.template DotBf16<2, 5, 6>();
    }
    if constexpr (kRows > 1 && kColumns > 1) machine.template DotBf16<3, 5, 7>();
  }
  const int64_t at = row * kTileSide, side = column * kTileSide;
  StoreSums<0>(machine, product, at, side);
  if constexpr (kColumns > 1) StoreSums<1>(machine, product, at, side + kTileSide);
  if constexpr (kRows > 1) StoreSums<2>(machine, product, at + kTileSide, side);
  if constexpr (kRows > 1 && kColumns > 1) StoreSums<3>(machine, product, at + kTileSide, side + kTileSide);
}

template <typename Machine>
void Multiply(absl::Span<const TileProduct> products) {
  Machine machine;
  for (const TileProduct& product : products) {
    const int64_t rows = (product.rows + kTileSide - 1) / kTileSide;
    const int64_t columns = (product.columns + kTileSide - 1) / kTileSide;
    for (int64_t row = 0; row < rows; row += 2) {
      for (int64_t column = 0; column < columns; column += 2) {
        if (row + 1 < rows) {
          column + 1 < columns ? MultiplyBlock<2, 2>(machine, product, row, column)
                               : MultiplyBlock<2, 1>(machine, product, row, column);
        } else {
          column + 1 < columns ? MultiplyBlock<1, 2>(machine, product, row, column)
                               : MultiplyBlock<1, 1>(machine, product, row, column);
        }
      }
    }
  }
}

#if KVLINK_AMX_ASK

bool AmxPermitted() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#endif

}  // namespace

bool HasAmx() {
#if KVLINK_AMX_RUN
  static const bool has = AmxPermitted() && MultipliesRight(Multiply<AmxTiles>);
  return has;
#elif KVLINK_AMX_ASK
  static const bool has = AmxPermitted();
  return has;
#else
  return false;
#endif
}

MultiplyTiles AmxMultiply() {
#if KVLINK_AMX_RUN
  if (HasAmx()) return Multiply<AmxTiles>;
#endif
  return nullptr;
}

void EmulatedAmxMultiply(absl::Span<const TileProduct> products) { Multiply<EmulatedTiles>(products); }

}  // namespace kvlink::kernels::cpu
