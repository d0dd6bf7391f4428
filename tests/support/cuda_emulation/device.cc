#include "tests/support/cuda_emulation/device.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace kvlink::kernels::cuda {
namespace {

struct QueuedCopy {
  void* shared;
  const void* global;
  int bytes;
  bool valid;
};
struct CopyQueue {
  std::vector<QueuedCopy> copies;
  std::vector<size_t> groups;  // the end of each committed group
};
std::vector<CopyQueue>& Queues() {
  static auto* queues = new std::vector<CopyQueue>(1024);
  return *queues;
}
CopyQueue& OwnQueue() { return Queues()[static_cast<size_t>(ThreadIndex())]; }

void RequireAligned(const void* address, int bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0) return;
  std::fprintf(stderr, "CUDA emulation: %s is not aligned to %d bytes\n", what, bytes);
  std::abort();
}

struct MatrixOperand {
  const void* row;
  uint32_t* out;
};

// PTX ISA, "Warp-level matrix load instruction: ldmatrix", figure of the fragment layout of one 8x8 matrix with .b16
// elements: lane l holds elements (l / 4, 2 (l % 4)) and (l / 4, 2 (l % 4) + 1), with .trans those of the transposed
// matrix. Lanes 8i..8i+7 give the addresses of the rows of matrix i.
template <bool kTransposed>
void LoadForWarp(void* const* operands) {
  uint16_t matrix[4][8][8];
  for (int lane = 0; lane < 32; ++lane) {
    std::memcpy(matrix[lane / 8][lane % 8], static_cast<const MatrixOperand*>(operands[lane])->row, 16);
  }
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t* out = static_cast<const MatrixOperand*>(operands[lane])->out;
    const int row = lane / 4, column = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      const uint32_t low = kTransposed ? matrix[i][column][row] : matrix[i][row][column];
      const uint32_t high = kTransposed ? matrix[i][column + 1][row] : matrix[i][row][column + 1];
      out[i] = low | high << 16;
    }
  }
}

struct MultiplyOperand {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type", lane l, g = l / 4, t = l % 4:
//   A (16 x 16)  register i holds columns 2t + 8 (i / 2) and the next of row g + 8 (i % 2)
//   B (16 x 8)   register i holds rows 2t + 8i and the next of column g
//   C, D (16 x 8)  element i is at row g + 8 (i / 2), column 2t + i % 2
void MultiplyForWarp(void* const* operands) {
  float a[16][16], b[16][8], sums[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& operand = *static_cast<const MultiplyOperand*>(operands[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i % 2), column = 2 * t + 8 * (i / 2);
      a[row][column] = Bf16ToFloat(static_cast<uint16_t>(operand.a[i]));
      a[row][column + 1] = Bf16ToFloat(static_cast<uint16_t>(operand.a[i] >> 16));
      sums[g + 8 * (i / 2)][2 * t + i % 2] = operand.d[i];
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = Bf16ToFloat(static_cast<uint16_t>(operand.b[i]));
      b[2 * t + 8 * i + 1][g] = Bf16ToFloat(static_cast<uint16_t>(operand.b[i] >> 16));
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) sums[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* d = static_cast<const MultiplyOperand*>(operands[lane])->d;
    for (int i = 0; i < 4; ++i) d[i] = sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

}  // namespace

void QueueCopy(void* shared, const void* global, int bytes, bool valid) {
  RequireAligned(shared, bytes, "the target of a copy");
  if (valid) RequireAligned(global, bytes, "the source of a copy");
  OwnQueue().copies.push_back({shared, global, bytes, valid});
}

void CopyCommit() { OwnQueue().groups.push_back(OwnQueue().copies.size()); }

void WaitForCopies(int groups) {
  CopyQueue& queue = OwnQueue();
  const int done = static_cast<int>(queue.groups.size()) - groups;
  if (done <= 0) return;
  const size_t end = queue.groups[static_cast<size_t>(done - 1)];
  for (size_t i = 0; i < end; ++i) {
    const QueuedCopy& copy = queue.copies[i];
    if (copy.valid) {
      std::memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
    } else {
      std::memset(copy.shared, 0, static_cast<size_t>(copy.bytes));
    }
  }
  queue.copies.erase(queue.copies.begin(), queue.copies.begin() + static_cast<int64_t>(end));
  queue.groups.erase(queue.groups.begin(), queue.groups.begin() + done);
  for (size_t& group : queue.groups) group -= end;
}

void LoadMatrices(uint32_t (&out)[4], const void* shared_row) {
  RequireAligned(shared_row, 16, "a row of ldmatrix");
  MatrixOperand operand{shared_row, out};
  emulation::Collective(LoadForWarp<false>, &operand);
}
void LoadMatricesTransposed(uint32_t (&out)[4], const void* shared_row) {
  RequireAligned(shared_row, 16, "a row of ldmatrix");
  MatrixOperand operand{shared_row, out};
  emulation::Collective(LoadForWarp<true>, &operand);
}
void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  MultiplyOperand operand{d, a, {b0, b1}};
  emulation::Collective(MultiplyForWarp, &operand);
}

}  // namespace kvlink::kernels::cuda
