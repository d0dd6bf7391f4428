// The emulation of the device notices what a device would not forgive.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"

namespace kvlink::kernels::cuda {
namespace {

void RunBlocks(int threads, const std::function<void()>& kernel, int64_t shared = 4096, int64_t blocks = 1) {
  testing::emulation::RunGrid(blocks, 1, threads, shared, kernel);
}

TEST(CudaEmulationTest, BarriersAndShufflesMeet) {
  std::vector<int> sums(128);
  RunBlocks(128, [&] {
    int sum = ThreadIndex();
    for (int mask = 16; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
    int* warps = reinterpret_cast<int*>(SharedMemory());
    if (ThreadIndex() % 32 == 0) warps[ThreadIndex() / 32] = sum;
    SyncThreads();
    sums[static_cast<size_t>(ThreadIndex())] = warps[0] + warps[1] + warps[2] + warps[3];
  });
  EXPECT_EQ(sums, std::vector<int>(128, 127 * 64));
}

// In one of two blocks somebody reads what is not yet written.
TEST(CudaEmulationTest, AForgottenBarrierShows) {
  int wrong = 0;
  const auto kernel = [&](int reads_of) {
    int* memory = reinterpret_cast<int*>(SharedMemory());
    memory[ThreadIndex()] = ThreadIndex();
    if (memory[(ThreadIndex() + reads_of) % 64] != (ThreadIndex() + reads_of) % 64) ++wrong;
  };
  RunBlocks(
      64, [&] { kernel(1); }, 4096, 2);
  EXPECT_GT(wrong, 0);
  wrong = 0;
  RunBlocks(
      64, [&] { kernel(63); }, 4096, 2);
  EXPECT_GT(wrong, 0);
}

TEST(CudaEmulationTest, CopiesArriveWhenTheyAreWaitedFor) {
  const std::vector<int> global = {7, 8, 9, 10};
  RunBlocks(32, [&] {
    if (ThreadIndex() != 0) return;
    int* shared = reinterpret_cast<int*>(SharedMemory());
    CopyAsync<4>(shared, &global[0], true);
    CopyCommit();
    CopyAsync<4>(shared + 1, &global[1], true);
    CopyAsync<4>(shared + 2, &global[2], false);
    CopyCommit();
    EXPECT_EQ(shared[0], -1);
    CopyWait<1>();
    EXPECT_EQ(shared[0], 7);
    EXPECT_EQ(shared[1], -1);
    CopyWait<0>();
    EXPECT_EQ(shared[1], 8);
    EXPECT_EQ(shared[2], 0);
    EXPECT_EQ(shared[3], -1);
  });
}

// A product of two matrices as the attention kernel does it: the left one by rows, the right one once by columns
// (keys) and once by rows (values, transposed on the way).
TEST(CudaEmulationTest, FragmentsMultiply) {
  uint16_t a[16][16], columns[16][16], rows[16][16];
  float left[16][16], right[16][16];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      left[i][j] = static_cast<float>((i * 7 + j * 3) % 11 - 5);
      right[i][j] = static_cast<float>((i * 5 + j * 2) % 13 - 6);
      a[i][j] = FloatToBf16(left[i][j]);
      columns[j][i] = rows[i][j] = FloatToBf16(right[i][j]);
    }
  }
  for (const bool transposed : {false, true}) {
    float product[16][16];
    RunBlocks(32, [&] {
      const int lane = ThreadIndex(), matrix = lane / 8, in_matrix = lane % 8;
      uint32_t left_fragment[4], right_fragment[4];
      float sums[2][4] = {};
      alignas(16) static uint16_t shared[2][16][16];
      std::memcpy(shared[0], a, sizeof(a));
      std::memcpy(shared[1], transposed ? rows : columns, sizeof(a));
      LoadMatrices(left_fragment, &shared[0][matrix % 2 * 8 + in_matrix][matrix / 2 * 8]);
      if (transposed) {
        LoadMatricesTransposed(right_fragment, &shared[1][matrix % 2 * 8 + in_matrix][matrix / 2 * 8]);
      } else {
        LoadMatrices(right_fragment, &shared[1][matrix / 2 * 8 + in_matrix][matrix % 2 * 8]);
      }
      MultiplyAdd(sums[0], left_fragment, right_fragment[0], right_fragment[1]);
      MultiplyAdd(sums[1], left_fragment, right_fragment[2], right_fragment[3]);
      for (int i = 0; i < 8; ++i) {
        product[lane / 4 + i % 4 / 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i / 4][i % 4];
      }
    });
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 16; ++j) {
        float expected = 0;
        for (int k = 0; k < 16; ++k) expected += left[i][k] * right[k][j];
        EXPECT_EQ(product[i][j], expected) << i << ", " << j;
      }
    }
  }
}

TEST(CudaEmulationDeathTest, WaitingForNobodyEndsTheProcess) {
  EXPECT_DEATH(RunBlocks(64,
                         [] {
                           if (ThreadIndex() < 40) SyncThreads();
                         }),
               "threads wait for others");
  EXPECT_DEATH(RunBlocks(32,
                         [] {
                           if (ThreadIndex() < 31) SyncWarp();
                         }),
               "threads wait for others");
  EXPECT_DEATH(RunBlocks(32,
                         [] {
                           if (ThreadIndex() % 2 == 0) {
                             SyncWarp();
                           } else {
                             ShuffleXor(1, 1);
                           }
                         }),
               "different collectives");
}

}  // namespace
}  // namespace kvlink::kernels::cuda
