#include "base/mutex.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/clock.h"
#include "base/thread.h"

namespace kvlink {
namespace {

struct Counter {
  Mutex mutex;
  CondVar changed;
  int value ABSL_GUARDED_BY(mutex) = 0;
};

TEST(MutexTest, ExcludesOtherThreads) {
  Counter counter;
  std::vector<Thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back("counter", [&counter] {
      for (int i = 0; i < 5000; ++i) {
        MutexLock lock(&counter.mutex);
        ++counter.value;
      }
    });
  }
  for (Thread& thread : threads) thread.Join();
  MutexLock lock(&counter.mutex);
  EXPECT_EQ(counter.value, 20000);
}

TEST(ReleasableMutexLockTest, LeavesTheMutexFreeFromEachState) {
  Counter counter;
  const auto free = [&counter] {
    bool taken = false;
    Thread("taker", [&] {
      MutexLock lock(&counter.mutex);
      taken = true;
    }).Join();
    return taken;
  };
  { ReleasableMutexLock lock(&counter.mutex); }
  EXPECT_TRUE(free());
  {
    ReleasableMutexLock lock(&counter.mutex);
    lock.Release();
    EXPECT_TRUE(free());
  }
  EXPECT_TRUE(free());
  {
    ReleasableMutexLock lock(&counter.mutex);
    lock.Release();
    lock.Reacquire();
    counter.value = 1;
  }
  EXPECT_TRUE(free());
}

TEST(CondVarTest, WakesTheWaiterWithTheMutexHeld) {
  Counter counter;
  Thread other("other", [&counter] {
    for (int i = 0; i < 3; ++i) {
      MutexLock lock(&counter.mutex);
      ++counter.value;
      counter.changed.SignalAll();
    }
  });
  {
    MutexLock lock(&counter.mutex);
    while (counter.value < 3) counter.changed.Wait(&counter.mutex);
    EXPECT_EQ(counter.value, 3);
  }
  other.Join();
}

TEST(CondVarTest, WaitUntilEndsAtItsDeadline) {
  Counter counter;
  MutexLock lock(&counter.mutex);
  // A spurious wake-up may come first; the deadline must come in the end.
  const absl::Time deadline = SteadyNow() + absl::Milliseconds(5);
  while (counter.changed.WaitUntil(&counter.mutex, deadline)) {
  }
  EXPECT_GE(SteadyNow() + absl::Milliseconds(1), deadline);
}

TEST(CondVarTest, WaitUntilWithoutDeadlineIsWoken) {
  Counter counter;
  Thread other("other", [&counter] {
    MutexLock lock(&counter.mutex);
    counter.value = 1;
    counter.changed.Signal();
  });
  {
    MutexLock lock(&counter.mutex);
    while (counter.value == 0) EXPECT_TRUE(counter.changed.WaitUntil(&counter.mutex, absl::InfiniteFuture()));
  }
  other.Join();
}

}  // namespace
}  // namespace kvlink
