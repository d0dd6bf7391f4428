#include "base/stopping.h"

#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/thread.h"

namespace kvlink {
namespace {

TEST(StoppingTest, AWaitEndsAtItsTime) {
  const Stopping stopping;
  const absl::Time time = SteadyNow() + absl::Milliseconds(5);
  EXPECT_TRUE(stopping.WaitUntil(time));
  EXPECT_GE(SteadyNow(), time);
  EXPECT_TRUE(stopping.WaitUntil(time));
  EXPECT_FALSE(stopping.begun());
}

TEST(StoppingTest, BeginEndsPresentAndLaterWaits) {
  Stopping stopping;
  Thread first("first", [&] { EXPECT_FALSE(stopping.WaitUntil(absl::InfiniteFuture())); });
  Thread second("second", [&] { EXPECT_FALSE(stopping.WaitUntil(absl::InfiniteFuture())); });
  stopping.Begin();
  first.Join();
  second.Join();
  EXPECT_TRUE(stopping.begun());
  EXPECT_FALSE(stopping.WaitUntil(absl::InfiniteFuture()));
}

}  // namespace
}  // namespace kvlink
