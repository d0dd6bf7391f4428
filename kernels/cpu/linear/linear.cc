// Blocks rows and columns so that x stays in the second-level cache and a panel in the first; a few rows read the
// weights once, many rows once per block of rows.
#include "kernels/cpu/linear/linear.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status.h"
#include "kernels/bf16.h"
#include "kernels/cpu/linear/matmul_simd.h"
#include "kernels/cpu/rows_simd.h"
#include "kernels/device/host.h"

namespace kvlink::kernels::cpu {
namespace {

// Steps of k that one tile multiplies at a stretch: its rows of x and its part of a panel then stay in the first-level
// cache.
constexpr int64_t kStretch = 640;
// x of the rows multiplied together stays in the second-level cache.
constexpr int64_t kRowBlockBytes = 5 << 18;
constexpr int64_t kMinRowBlock = 128, kMaxRowBlock = 512;
// For fewer rows, reading the weights again does not pay off.
constexpr int64_t kFewestRows = 24;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return DivideUp(a, b) * b; }

class Matrix : public PackedMatrix {
 public:
  Matrix(int64_t n, int64_t k) : n_(n), k_(k) {}
  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  int64_t bytes() const override { return dnnl != nullptr ? dnnl->bytes() : panels.bytes(); }

  bool bf16_panels = false;
  Buffer panels;
  std::unique_ptr<DnnlMatmul::Weights> dnnl;

  // 32-bit words of one panel.
  int64_t panel_words(int64_t panel) const { return (bf16_panels ? DivideUp(k_, 2) : k_) * panel; }

 private:
  const int64_t n_, k_;
};

// Steps of k per stretch, even so that bf16 words are not split.
int64_t Stretch(int64_t k) { return RoundUp(DivideUp(k, DivideUp(k, kStretch)), 2); }

// Rows multiplied together, of row_bytes each; fewer if there are too few panels to keep the threads busy to the end.
int64_t RowBlock(int64_t rows, int64_t row_bytes, int64_t panels, int64_t threads, int64_t tile_rows) {
  const int64_t most = std::clamp(kRowBlockBytes / row_bytes, kMinRowBlock, kMaxRowBlock);
  const int64_t wanted = threads == 1 ? 1 : std::min(DivideUp(8 * threads, panels), rows / kFewestRows);
  const int64_t blocks = std::max({DivideUp(rows, most), wanted, int64_t{1}});
  return std::min(rows, RoundUp(DivideUp(rows, blocks), tile_rows));
}

// Whether gate and up fall on separate panels, so that a pair of panels gives finished columns.
bool Paired(const Matrix& matrix, const MatmulKernels& kernels, Epilogue epilogue) {
  return epilogue == Epilogue::kSiluMul && (matrix.n() / 2) % kernels.panel == 0;
}

// Panels, or pairs of them, that are multiplied independently.
int64_t Panels(const Matrix& matrix, const MatmulKernels& kernels, Epilogue epilogue) {
  return DivideUp(Paired(matrix, kernels, epilogue) ? matrix.n() / 2 : matrix.n(), kernels.panel);
}

bool Bf16Holds(const float* values, int64_t count) {
  uint32_t lost = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, 4);
    lost |= bits & 0xffffu;
  }
  return lost == 0;
}

// How x is multiplied.
enum class Operand { kF32, kRounded, kPairs };  // f32; f32 rounded to bf16; pairs of bf16, as PairProduct says

// Whether the multiply can read x in place: its rows must not all fall into the same few cache sets.
bool InPlace(const LinearArgs& args, Operand operand) {
  const Tensor& x = args.x;
  if ((x.strides[0] * DtypeBytes(x.dtype)) % 2048 == 0) return false;
  if (operand == Operand::kF32) return x.dtype == Dtype::kF32;
  return operand == Operand::kPairs && x.dtype == Dtype::kBf16 && x.sizes[1] % 2 == 0 && x.strides[0] % 2 == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % 4 == 0;
}

// 32-bit words from one row of a copy of x to the next: never a multiple of 2048 bytes.
int64_t CopyStride(int64_t k, Operand operand) {
  const int64_t words = RoundUp(operand == Operand::kPairs ? DivideUp(k, 2) : k, 16) + 16;
  return words % 512 == 0 ? words + 16 : words;
}

int64_t ThreadFloats(int64_t row_block, int64_t panel) { return 2 * row_block * panel; }

}  // namespace

Linear::Linear(Threads threads, bool bf16, MultiplyPairs pairs)
    : threads_(threads), bf16_(bf16), pairs_(bf16 && GetMatmulKernels().panel % kTileSide == 0 ? pairs : nullptr) {
  if (!bf16 || pairs_ != nullptr) return;
  absl::StatusOr<std::unique_ptr<DnnlMatmul>> dnnl = DnnlMatmul::Make(threads.count());
  if (dnnl.ok()) dnnl_ = *std::move(dnnl);
}

Linear::~Linear() = default;

absl::StatusOr<std::unique_ptr<PackedMatrix>> Linear::Pack(const Tensor& weight) const {
  const MatmulKernels& kernels = GetMatmulKernels();
  const int64_t n = weight.sizes[0], k = weight.sizes[1], panel = kernels.panel;
  auto matrix = std::make_unique<Matrix>(n, k);
  const float* f32 = weight.dtype == Dtype::kF32 ? weight.as<const float>() : nullptr;
  const uint16_t* half = weight.as<const uint16_t>();
  if (dnnl_ != nullptr) {
    Buffer rounded;
    if (f32 != nullptr) {
      KVLINK_ASSIGN_OR_RETURN(rounded, AllocateHost(n * k * 2));
      GetRowKernels().narrow(f32, n * k, static_cast<uint16_t*>(rounded.data()));
      half = static_cast<const uint16_t*>(rounded.data());
    }
    KVLINK_ASSIGN_OR_RETURN(matrix->dnnl, dnnl_->Pack(half, n, k));
    return matrix;
  }
  matrix->bf16_panels = f32 == nullptr || bf16_ || Bf16Holds(f32, n * k);
  const int64_t panels = DivideUp(n, panel), words = matrix->panel_words(panel);
  KVLINK_ASSIGN_OR_RETURN(matrix->panels, AllocateHost(panels * words * 4));  // zeros
  threads_.For(panels, [&](int64_t p, int) {
    const int64_t columns = std::min(panel, n - p * panel);
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t row = (p * panel + j) * k;
      if (!matrix->bf16_panels) {
        float* to = static_cast<float*>(matrix->panels.data()) + p * words + j;
        for (int64_t i = 0; i < k; ++i) to[i * panel] = f32[row + i];
        continue;
      }
      uint16_t* to = static_cast<uint16_t*>(matrix->panels.data()) + 2 * (p * words + j);
      for (int64_t i = 0; i < k; ++i) {
        to[(i / 2) * 2 * panel + i % 2] = f32 != nullptr ? FloatToBf16(f32[row + i]) : half[row + i];
      }
    }
  });
  return matrix;
}

bool Linear::Packed(const PackedMatrix& weight) const {
  const auto* matrix = dynamic_cast<const Matrix*>(&weight);
  if (matrix == nullptr) return false;
  if (matrix->dnnl != nullptr) return dnnl_ != nullptr;
  return pairs_ == nullptr || matrix->bf16_panels;
}

int64_t Linear::WorkspaceBytes(int64_t rows, const PackedMatrix& weight, Epilogue epilogue) const {
  const auto& matrix = static_cast<const Matrix&>(weight);
  if (rows <= 0) return 0;
  const int64_t n = matrix.n(), k = matrix.k();
  if (matrix.dnnl != nullptr) {
    const int64_t padded = DnnlMatmul::PaddedRows(rows);
    return RoundUp(padded * k * 2, 64) + padded * n * 4;
  }
  const MatmulKernels& kernels = GetMatmulKernels();
  int64_t words = rows * CopyStride(k, pairs_ != nullptr ? Operand::kPairs : Operand::kF32);
  if (epilogue == Epilogue::kSiluMul && !Paired(matrix, kernels, epilogue)) words += RoundUp(rows * n, 16);
  // More rows never need less, so a workspace for the most rows serves all.
  return 4 * (words + threads_.count() * ThreadFloats(std::min(rows, kMaxRowBlock + kernels.tile_rows), kernels.panel));
}

namespace {

// One call with packed panels.
class PanelMultiply {
 public:
  PanelMultiply(const LinearArgs& args, const Threads& threads, bool bf16, MultiplyPairs pairs)
      : args_(args),
        matrix_(static_cast<const Matrix&>(*args.weight)),
        kernels_(GetMatmulKernels()),
        threads_(threads),
        pairs_(pairs),
        operand_(pairs != nullptr ? Operand::kPairs
                 : bf16           ? Operand::kRounded
                                  : Operand::kF32),
        x_bytes_(pairs != nullptr ? 2 : 4),
        rows_(args.x.sizes[0]),
        k_(matrix_.k()),
        panel_(kernels_.panel),
        row_block_(RowBlock(rows_, k_ * x_bytes_, Panels(matrix_, kernels_, args.epilogue), threads.count(),
                            kernels_.tile_rows)),
        stretch_(Stretch(k_)) {}

  void Run() {
    float* free = static_cast<float*>(args_.workspace.data);
    x_ = args_.x.as<const std::byte>();
    x_stride_ = args_.x.strides[0] * DtypeBytes(args_.x.dtype);
    if (!InPlace(args_, operand_)) CopyX(reinterpret_cast<std::byte*>(free));
    free += rows_ * CopyStride(k_, operand_);
    const int64_t n = matrix_.n();
    const bool silu = args_.epilogue == Epilogue::kSiluMul;
    const bool paired = Paired(matrix_, kernels_, args_.epilogue);
    float* y = free;
    if (silu && !paired) free += RoundUp(rows_ * n, 16);
    const int64_t columns = Panels(matrix_, kernels_, args_.epilogue);
    const int64_t blocks = DivideUp(rows_, row_block_);
    const int64_t run = std::max<int64_t>(1, columns * blocks / (threads_.count() * 8));
    const int64_t runs = DivideUp(columns, run);
    threads_.For(blocks * runs, [&](int64_t item, int thread) {
      const int64_t row = item / runs * row_block_;
      float* c = free + thread * ThreadFloats(row_block_, panel_);
      const int64_t first = item % runs * run;
      for (int64_t p = first; p < std::min(columns, first + run); ++p) {
        paired ? Pair(p, row, c) : Single(p, row, c, silu ? y : nullptr);
      }
    });
    if (silu && !paired) {
      const float* bias = args_.bias.as<const float>();
      kernels_.finish_silu(rows_, y, y + n / 2, n, bias, bias == nullptr ? nullptr : bias + n / 2, n / 2,
                           args_.out.data, args_.out.strides[0], args_.out.dtype == Dtype::kBf16);
    }
  }

 private:
  // Copies x as the multiply reads it.
  void CopyX(std::byte* to) {
    const int64_t stride = CopyStride(k_, operand_) * 4;
    threads_.For(DivideUp(rows_, 16), [&](int64_t item, int) {
      for (int64_t r = item * 16; r < std::min(rows_, item * 16 + 16); ++r) {
        operand_ == Operand::kPairs ? CopyPairs(r, reinterpret_cast<uint16_t*>(to + r * stride))
                                    : CopyFloats(r, reinterpret_cast<float*>(to + r * stride));
      }
    });
    x_ = to;
    x_stride_ = stride;
  }

  void CopyFloats(int64_t row, float* to) const {
    const int64_t from = row * args_.x.strides[0];
    if (args_.x.dtype == Dtype::kBf16) {
      GetRowKernels().widen(args_.x.as<const uint16_t>() + from, k_, to);
    } else if (operand_ == Operand::kRounded) {
      GetRowKernels().round(args_.x.as<const float>() + from, k_, to);
    } else {
      std::memcpy(to, args_.x.as<const float>() + from, static_cast<size_t>(k_) * 4);
    }
  }

  void CopyPairs(int64_t row, uint16_t* to) const {
    const int64_t from = row * args_.x.strides[0];
    if (args_.x.dtype == Dtype::kBf16) {
      std::memcpy(to, args_.x.as<const uint16_t>() + from, static_cast<size_t>(k_) * 2);
    } else {
      GetRowKernels().narrow(args_.x.as<const float>() + from, k_, to);
    }
    if (k_ % 2 != 0) to[k_] = 0;
  }

  // Calls done(row in block, count) for each tile of the block at `row` once c holds x times panel p.
  template <typename Done>
  void Multiply(int64_t p, int64_t row, float* c, int64_t c_stride, Done&& done) {
    const int64_t rows = std::min(row_block_, rows_ - row);
    const int64_t tiles = DivideUp(rows, kernels_.tile_rows);
    const uint32_t* words = static_cast<const uint32_t*>(matrix_.panels.data()) + p * matrix_.panel_words(panel_);
    for (int64_t step = 0; step < k_; step += stretch_) {
      const int64_t steps = std::min(stretch_, k_ - step);
      const int64_t stretch_words = (matrix_.bf16_panels ? DivideUp(steps, 2) : steps) * panel_;
      const int64_t lines = DivideUp((matrix_.bf16_panels ? 2 : 4) * panel_ / 16, tiles);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = rows * tile / tiles;
        const int count = static_cast<int>(rows * (tile + 1) / tiles - first);
        const std::byte* x = x_ + (row + first) * x_stride_ + step * x_bytes_;
        const uint32_t* ahead = words + stretch_words + tile * (stretch_words / tiles);
        MultiplyTile(count, x, words, steps, c + first * c_stride, c_stride, step > 0, ahead, lines);
        if (step + steps == k_) done(first, count);
      }
      words += stretch_words;
    }
  }

  // As MatmulKernels::tile_f32, in this call's form.
  void MultiplyTile(int rows, const std::byte* x, const uint32_t* panel, int64_t k, float* c, int64_t c_stride,
                    bool accumulate, const void* ahead, int64_t ahead_lines) const {
    const float* floats = reinterpret_cast<const float*>(x);
    if (operand_ == Operand::kPairs) {
      pairs_({reinterpret_cast<const uint32_t*>(x), x_stride_ / 4, panel, rows, panel_, DivideUp(k, 2), c, c_stride,
              accumulate, ahead, ahead_lines});
    } else if (matrix_.bf16_panels) {
      kernels_.tile_bf16(rows, floats, x_stride_ / 4, panel, k, c, c_stride, accumulate, ahead, ahead_lines);
    } else {
      kernels_.tile_f32(rows, floats, x_stride_ / 4, reinterpret_cast<const float*>(panel), k, c, c_stride, accumulate,
                        ahead, ahead_lines);
    }
  }

  void* OutAt(int64_t row, int64_t column) const {
    return args_.out.as<std::byte>() + (row * args_.out.strides[0] + column) * DtypeBytes(args_.out.dtype);
  }

  // Columns [p * panel, ...) of the result, or of y.
  void Single(int64_t p, int64_t row, float* c, float* y) {
    const int64_t n = matrix_.n(), column = p * panel_, columns = std::min(panel_, n - column);
    const float* bias = args_.bias.data == nullptr ? nullptr : args_.bias.as<const float>() + column;
    const int64_t out_stride = args_.out.strides[0];
    if (columns == panel_ && bias == nullptr && y == nullptr && args_.out.dtype == Dtype::kF32) {
      Multiply(p, row, static_cast<float*>(OutAt(row, column)), out_stride, [](int64_t, int) {});
      return;
    }
    Multiply(p, row, c, panel_, [&](int64_t first, int count) {
      if (y != nullptr) {
        kernels_.finish(count, c + first * panel_, panel_, nullptr, columns, y + (row + first) * n + column, n, false);
      } else {
        kernels_.finish(count, c + first * panel_, panel_, bias, columns, OutAt(row + first, column), out_stride,
                        args_.out.dtype == Dtype::kBf16);
      }
    });
  }

  // Computes gate panel p and its up panel.
  void Pair(int64_t p, int64_t row, float* c) {
    const int64_t half = matrix_.n() / 2, column = p * panel_;
    float* up = c + row_block_ * panel_;
    Multiply(p, row, c, panel_, [](int64_t, int) {});
    const float* bias = args_.bias.as<const float>();
    Multiply(p + half / panel_, row, up, panel_, [&](int64_t first, int count) {
      kernels_.finish_silu(count, c + first * panel_, up + first * panel_, panel_,
                           bias == nullptr ? nullptr : bias + column, bias == nullptr ? nullptr : bias + half + column,
                           panel_, OutAt(row + first, column), args_.out.strides[0], args_.out.dtype == Dtype::kBf16);
    });
  }

  const LinearArgs& args_;
  const Matrix& matrix_;
  const MatmulKernels& kernels_;
  const Threads& threads_;
  const MultiplyPairs pairs_;
  const Operand operand_;
  const int64_t x_bytes_;  // of a number of x
  const int64_t rows_, k_, panel_, row_block_, stretch_;
  const std::byte* x_ = nullptr;
  int64_t x_stride_ = 0;  // bytes
};

// One call with oneDNN: rows are rounded to bf16 and padded to a row count with a primitive.
absl::Status DnnlMultiply(DnnlMatmul& dnnl, const LinearArgs& args, const Threads& threads) {
  const auto& matrix = static_cast<const Matrix&>(*args.weight);
  const MatmulKernels& kernels = GetMatmulKernels();
  const int64_t all = args.x.sizes[0], n = matrix.n(), k = matrix.k();
  const int64_t most = DnnlMatmul::PaddedRows(all);
  uint16_t* x = static_cast<uint16_t*>(args.workspace.data);
  float* y = reinterpret_cast<float*>(static_cast<std::byte*>(args.workspace.data) + RoundUp(most * k * 2, 64));
  const float* bias = args.bias.as<const float>();
  for (int64_t begin = 0; begin < all; begin += most) {
    const int64_t rows = std::min(most, all - begin), padded = DnnlMatmul::PaddedRows(rows);
    threads.For(DivideUp(padded, 16), [&](int64_t item, int) {
      for (int64_t r = item * 16; r < item * 16 + 16; ++r) {
        const int64_t from = (begin + r) * args.x.strides[0];
        if (r >= rows) {
          std::memset(x + r * k, 0, static_cast<size_t>(k) * 2);
        } else if (args.x.dtype == Dtype::kBf16) {
          std::memcpy(x + r * k, args.x.as<const uint16_t>() + from, static_cast<size_t>(k) * 2);
        } else {
          GetRowKernels().narrow(args.x.as<const float>() + from, k, x + r * k);
        }
      }
    });
    KVLINK_RETURN_IF_ERROR(dnnl.Run(x, padded, *matrix.dnnl, y));
    const bool out_bf16 = args.out.dtype == Dtype::kBf16;
    threads.For(DivideUp(rows, 16), [&](int64_t item, int) {
      const int64_t first = item * 16, count = std::min<int64_t>(16, rows - first);
      void* out = args.out.as<std::byte>() + (begin + first) * args.out.strides[0] * DtypeBytes(args.out.dtype);
      if (args.epilogue == Epilogue::kSiluMul) {
        kernels.finish_silu(count, y + first * n, y + first * n + n / 2, n, bias,
                            bias == nullptr ? nullptr : bias + n / 2, n / 2, out, args.out.strides[0], out_bf16);
      } else {
        kernels.finish(count, y + first * n, n, bias, n, out, args.out.strides[0], out_bf16);
      }
    });
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Linear::Run(const LinearArgs& args) const {
  if (args.x.sizes[0] == 0) return absl::OkStatus();
  if (static_cast<const Matrix&>(*args.weight).dnnl != nullptr) return DnnlMultiply(*dnnl_, args, threads_);
  PanelMultiply(args, threads_, bf16_, pairs_).Run();
  return absl::OkStatus();
}

}  // namespace kvlink::kernels::cpu
