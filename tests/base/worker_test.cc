#include "base/worker.h"

#include <atomic>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "gtest/gtest.h"

namespace kvlink {
namespace {

// Work that lasts until it is let go.
class Gate {
 public:
  Worker::Work Work() {
    return [this](const absl::Status&) {
      MutexLock lock(&mutex_);
      ++entered_;
      changed_.SignalAll();
      while (!open_) changed_.Wait(&mutex_);
    };
  }
  void WaitEntered(int count = 1) {
    MutexLock lock(&mutex_);
    while (entered_ < count) changed_.Wait(&mutex_);
  }
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.SignalAll();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int entered_ ABSL_GUARDED_BY(mutex_) = 0;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

// Records what ran, in order.
class Journal {
 public:
  Worker::Work Work(std::string what) {
    return [this, what = std::move(what)](const absl::Status& turn) {
      MutexLock lock(&mutex_);
      lines_.push_back(turn.ok() ? what : what + " " + std::string(absl::StatusCodeToString(turn.code())));
    };
  }
  std::vector<std::string> lines() {
    MutexLock lock(&mutex_);
    return lines_;
  }

 private:
  Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
};

TEST(WorkerTest, IsBoundedAndTellsWhatIsLate) {
  Gate gate;
  Journal journal;
  Worker worker({.name = "test", .max_queued = 3, .max_queued_bytes = 100});
  ASSERT_TRUE(worker.Add({.work = gate.Work()}).ok());
  gate.WaitEntered();
  EXPECT_TRUE(worker.Add({.work = journal.Work("a"), .bytes = 60}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(worker.Add({.work = journal.Work("no"), .bytes = 60})));
  EXPECT_TRUE(worker.Add({.work = journal.Work("late"), .deadline = SteadyNow()}).ok());
  EXPECT_TRUE(worker.Add({.work = journal.Work("b")}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(worker.Add({.work = journal.Work("no")})));
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(worker.AddWhenRoom({.work = journal.Work("no")}, SteadyNow() + absl::Milliseconds(20))));
  EXPECT_TRUE(worker.AddAdmitted({.work = journal.Work("c")}).ok());
  EXPECT_EQ(worker.queued(), 4);
  gate.Open();
  worker.Finish();
  EXPECT_EQ(journal.lines(), (std::vector<std::string>{"a", "late DEADLINE_EXCEEDED", "b", "c"}));
  EXPECT_TRUE(absl::IsUnavailable(worker.Add({.work = journal.Work("no")})));
}

TEST(WorkerTest, StopRefusesWhatWaits) {
  Gate gate;
  Journal journal;
  Worker worker({.name = "test"});
  ASSERT_TRUE(worker.Add({.work = gate.Work()}).ok());
  gate.WaitEntered();
  ASSERT_TRUE(worker.Add({.work = journal.Work("a")}).ok());
  Thread opener("opener", [&] {
    while (journal.lines().empty()) absl::SleepFor(absl::Milliseconds(1));
    gate.Open();
  });
  worker.Stop();
  EXPECT_EQ(journal.lines(), std::vector<std::string>{"a UNAVAILABLE"});
}

TEST(WorkerTest, WaitsForRoom) {
  Gate gate;
  Journal journal;
  Worker worker({.name = "test", .max_queued = 1});
  ASSERT_TRUE(worker.Add({.work = gate.Work()}).ok());
  gate.WaitEntered();
  ASSERT_TRUE(worker.Add({.work = journal.Work("a")}).ok());
  std::atomic<bool> added{false};
  Thread waiter("waiter", [&] {
    EXPECT_TRUE(worker.AddWhenRoom({.work = journal.Work("b")}, absl::InfiniteFuture()).ok());
    added.store(true);
  });
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_FALSE(added.load());
  gate.Open();
  waiter.Join();
  worker.Finish();
  EXPECT_EQ(journal.lines(), (std::vector<std::string>{"a", "b"}));
}

TEST(WorkerTest, OwnersTakeTurns) {
  Gate gate;
  Journal journal;
  Worker worker({.name = "test"});
  ASSERT_TRUE(worker.Add({.work = gate.Work(), .owner = "crowd"}).ok());
  gate.WaitEntered();
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(worker.Add({.work = journal.Work("crowd"), .owner = "crowd"}).ok());
  ASSERT_TRUE(worker.Add({.work = journal.Work("one"), .owner = "one"}).ok());
  gate.Open();
  worker.Finish();
  const std::vector<std::string> lines = journal.lines();
  ASSERT_EQ(lines.size(), 101u);
  // The crowd's first work took all the time that there was until then.
  EXPECT_EQ(lines[0], "one");
}

TEST(WorkerTest, AnOwnerWhoseWorkDoesNotEndLeavesAThreadToOthers) {
  Gate gate;
  Journal journal;
  Worker worker({.name = "test", .threads = 2});
  ASSERT_TRUE(worker.Add({.work = gate.Work(), .owner = "slow"}).ok());
  gate.WaitEntered();
  Gate other;
  ASSERT_TRUE(worker.Add({.work = other.Work(), .owner = "other"}).ok());
  other.WaitEntered();
  ASSERT_TRUE(worker.Add({.work = gate.Work(), .owner = "slow"}).ok());
  ASSERT_TRUE(worker.Add({.work = journal.Work("x"), .owner = "third"}).ok());
  other.Open();
  // The slow one came first, and has a thread already.
  while (journal.lines().empty()) absl::SleepFor(absl::Milliseconds(1));
  gate.Open();
}

TEST(WorkerTest, NobodySavesUpTurns) {
  Gate gate;
  Journal journal;
  Worker worker({.name = "test"});
  const auto busy = [](const absl::Status&) { absl::SleepFor(absl::Milliseconds(20)); };
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(worker.Add({.work = busy, .owner = "old"}).ok());
  while (worker.queued() > 0) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_TRUE(worker.Add({.work = gate.Work(), .owner = "old"}).ok());
  gate.WaitEntered();
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(worker
                    .Add({.work =
                              [&, work = journal.Work("new")](const absl::Status& turn) {
                                absl::SleepFor(absl::Milliseconds(10));
                                work(turn);
                              },
                          .owner = "new"})
                    .ok());
  }
  ASSERT_TRUE(worker.Add({.work = journal.Work("old"), .owner = "old"}).ok());
  gate.Open();
  worker.Finish();
  EXPECT_NE(journal.lines().back(), "old");
}

}  // namespace
}  // namespace kvlink
