#include "worker/cli/interrupt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

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

TEST(InterruptTest, TheFirstOfEitherEndsWaits) {
  int idle[2] = {-1, -1};
  ASSERT_EQ(pipe(idle), 0);
  EXPECT_FALSE(Interrupted());
  EXPECT_FALSE(SignalInterrupt().raised());
  {
    const CatchInterrupt caught;
    std::raise(SIGTERM);
    EXPECT_TRUE(Interrupted());
    EXPECT_TRUE(absl::IsCancelled(SignalInterrupt().WaitReadable(idle[0])));
    std::raise(SIGINT);
  }
  EXPECT_TRUE(Interrupted());
  EXPECT_TRUE(SignalInterrupt().raised());
  for (const int end : idle) close(end);
}

// Others may end the waits as well, for which no signal has to come.
TEST(InterruptDeathTest, AStoppedSourceIsNoSignal) {
  EXPECT_EXIT(
      {
        SignalInterrupt().Raise();
        std::_Exit(Interrupted() ? 1 : 0);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvlink::cli
