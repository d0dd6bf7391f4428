#include "worker/cli/interrupt.h"

#include <gtest/gtest.h>

#include <csignal>

namespace kvlink::cli {
namespace {

// Whatever keeps a command from ending in good order, the user can end it.
TEST(InterruptDeathTest, TheSecondEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const int signal : {SIGINT, SIGTERM}) {
    EXPECT_EXIT(
        {
          const CatchInterrupt caught;
          for (int i = 0; i < 2; ++i) std::raise(signal);
        },
        ::testing::KilledBySignal(signal), "");
    EXPECT_EXIT(
        {
          { const CatchInterrupt caught; }
          std::raise(signal);
        },
        ::testing::KilledBySignal(signal), "");
  }
}

TEST(InterruptTest, TheFirstOfEitherIsTold) {
  int told = 0;
  EXPECT_FALSE(Interrupted());
  {
    const CatchInterrupt caught([&told] { ++told; });
    std::raise(SIGTERM);
    EXPECT_TRUE(Interrupted());
    std::raise(SIGINT);
  }
  EXPECT_EQ(told, 2);
  EXPECT_TRUE(Interrupted());
}

}  // namespace
}  // namespace kvlink::cli
