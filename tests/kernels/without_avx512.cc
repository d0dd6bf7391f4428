// The main of kernels_avx2_test: runs the tests of the CPU backend as on a CPU without AVX-512.
#include <gtest/gtest.h>

#include "hwy/highway.h"

int main(int argc, char** argv) {
  hwy::SetSupportedTargetsForTest(hwy::SupportedTargets() & ~(HWY_AVX3 | HWY_AVX3_DL));
  ::testing::GTEST_FLAG(filter) = "*cpu_*:TilesTest.*:KeyMassThreadsTest.*";
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
