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

// Rows multiplied together; fewer if there are too few panels to keep the threads busy to the end.
int64_t RowBlock(int64_t rows, int64_t k, int64_t panels, int64_t threads, int64_t tile_rows) {
  const int64_t most = std::clamp(kRowBlockBytes / (4 * k), kMinRowBlock, kMaxRowBlock);
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

// Whether the multiply can read x in place: f32 whose rows do not all fall into the same few cache sets.
bool InPlace(const LinearArgs& args, bool bf16) {
  return args.x.dtype == Dtype::kF32 && !bf16 && (args.x.strides[0] * 4) % 2048 != 0;
}

// The row stride of a copy: never a multiple of 2048 bytes.
int64_t CopyStride(int64_t k) { return RoundUp(k, 16) + 16; }

struct Scratch {
  float* x = nullptr;        // [rows][CopyStride(k)]
  float* y = nullptr;        // [rows][n], when a silu-mul does not fall on panels
  float* threads = nullptr;  // [threads][2][row block][panel]
};

int64_t ThreadFloats(int64_t row_block, int64_t panel) { return 2 * row_block * panel; }

}  // namespace

Linear::Linear(Threads threads, bool bf16) : threads_(threads), bf16_(bf16) {
  if (!bf16) return;
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
  return matrix != nullptr && (matrix->dnnl == nullptr || dnnl_ != nullptr);
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
  int64_t floats = rows * CopyStride(k);
  if (epilogue == Epilogue::kSiluMul && !Paired(matrix, kernels, epilogue)) floats += RoundUp(rows * n, 16);
  // More rows never need less, so a workspace for the most rows serves all.
  return 4 *
         (floats + threads_.count() * ThreadFloats(std::min(rows, kMaxRowBlock + kernels.tile_rows), kernels.panel));
}

namespace {

// One call with packed panels.
class PanelMultiply {
 public:
  PanelMultiply(const LinearArgs& args, const Threads& threads, bool bf16)
      : args_(args),
        matrix_(static_cast<const Matrix&>(*args.weight)),
        kernels_(GetMatmulKernels()),
        threads_(threads),
        rows_(args.x.sizes[0]),
        k_(matrix_.k()),
        panel_(kernels_.panel),
        row_block_(RowBlock(rows_, k_, Panels(matrix_, kernels_, args.epilogue), threads.count(), kernels_.tile_rows)),
        stretch_(Stretch(k_)),
        round_(bf16) {}

  void Run() {
    float* free = static_cast<float*>(args_.workspace.data);
    x_ = args_.x.as<const float>();
    x_stride_ = args_.x.strides[0];
    if (!InPlace(args_, round_)) CopyX(free);
    free += rows_ * CopyStride(k_);
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
  // Copies x as f32, rounded to bf16 if the multiply is in bf16.
  void CopyX(float* to) {
    const int64_t stride = CopyStride(k_);
    threads_.For(DivideUp(rows_, 16), [&](int64_t item, int) {
      for (int64_t r = item * 16; r < std::min(rows_, item * 16 + 16); ++r) {
        if (args_.x.dtype == Dtype::kBf16) {
          GetRowKernels().widen(args_.x.as<const uint16_t>() + r * args_.x.strides[0], k_, to + r * stride);
        } else if (round_) {
          GetRowKernels().round(args_.x.as<const float>() + r * args_.x.strides[0], k_, to + r * stride);
        } else {
          std::memcpy(to + r * stride, args_.x.as<const float>() + r * args_.x.strides[0], static_cast<size_t>(k_) * 4);
        }
      }
    });
    x_ = to;
    x_stride_ = stride;
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
        const float* x = x_ + (row + first) * x_stride_ + step;
        const uint32_t* ahead = words + stretch_words + tile * (stretch_words / tiles);
        if (matrix_.bf16_panels) {
          kernels_.tile_bf16(count, x, x_stride_, words, steps, c + first * c_stride, c_stride, step > 0, ahead, lines);
        } else {
          kernels_.tile_f32(count, x, x_stride_, reinterpret_cast<const float*>(words), steps, c + first * c_stride,
                            c_stride, step > 0, ahead, lines);
        }
        if (step + steps == k_) done(first, count);
      }
      words += stretch_words;
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
  const int64_t rows_, k_, panel_, row_block_, stretch_;
  const bool round_;
  const float* x_ = nullptr;
  int64_t x_stride_ = 0;
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
  PanelMultiply(args, threads_, bf16_).Run();
  return absl::OkStatus();
}

}  // namespace kvlink::kernels::cpu
