// Files that are read again, and reads that hang.
#include "base/cli/reload.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/clock.h"
#include "tests/support/patience.h"

namespace kvlink::cli {
namespace {

using ::kvlink::testing::Patience;

// A file system that hangs while it is shut. Thread-safety: all methods.
class FileSystem {
 public:
  void Shut(bool shut) {
    MutexLock lock(&mutex_);
    shut_ = shut;
    changed_.SignalAll();
  }
  void Read() {
    MutexLock lock(&mutex_);
    ++reading_;
    max_reading_ = std::max(max_reading_, reading_);
    ++reads_;
    changed_.SignalAll();
    while (shut_) changed_.Wait(&mutex_);
    --reading_;
  }
  void Use() {
    MutexLock lock(&mutex_);
    ++uses_;
    changed_.SignalAll();
  }
  bool AwaitReads(int reads) {
    const absl::Time deadline = Patience();
    MutexLock lock(&mutex_);
    while (reads_ < reads && SteadyNow() < deadline) changed_.WaitUntil(&mutex_, deadline);
    return reads_ == reads;
  }
  bool AwaitUses(int uses) {
    const absl::Time deadline = Patience();
    MutexLock lock(&mutex_);
    while (uses_ < uses && SteadyNow() < deadline) changed_.WaitUntil(&mutex_, deadline);
    return uses_ == uses;
  }
  int max_reading() {
    MutexLock lock(&mutex_);
    return max_reading_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool shut_ ABSL_GUARDED_BY(mutex_) = false;
  int reads_ ABSL_GUARDED_BY(mutex_) = 0, uses_ ABSL_GUARDED_BY(mutex_) = 0;
  int reading_ ABSL_GUARDED_BY(mutex_) = 0, max_reading_ ABSL_GUARDED_BY(mutex_) = 0;
};

Reload::Read Reads(FileSystem* files) {
  return [files]() -> Reload::Use {
    files->Read();
    return [files] { files->Use(); };
  };
}

TEST(ReloadTest, ReadsAgainOneAtATime) {
  FileSystem files;
  {
    Reload reload(Reads(&files));
    for (int i = 1; i <= 3; ++i) {
      reload.Begin();
      EXPECT_TRUE(files.AwaitUses(i));
    }
    // The file may have been replaced after the read in progress had begun.
    files.Shut(true);
    reload.Begin();
    ASSERT_TRUE(files.AwaitReads(4));
    reload.Begin();
    reload.Begin();
    files.Shut(false);
    EXPECT_TRUE(files.AwaitUses(5));
  }
  EXPECT_TRUE(files.AwaitUses(5)) << "nobody asked for a sixth";
  EXPECT_EQ(files.max_reading(), 1);
}

TEST(ReloadTest, TellsOnceThatAReadIsOverdue) {
  FileSystem files;
  Reload reload(Reads(&files), absl::ZeroDuration());
  EXPECT_FALSE(reload.Overdue());
  for (int i = 1; i <= 2; ++i) {
    files.Shut(true);
    reload.Begin();
    ASSERT_TRUE(files.AwaitReads(i));
    EXPECT_TRUE(reload.Overdue());
    EXPECT_FALSE(reload.Overdue());
    files.Shut(false);
    EXPECT_TRUE(files.AwaitUses(i));
    EXPECT_FALSE(reload.Overdue());
  }
}

// The thread stays in the read until the process ends.
TEST(ReloadTest, AReadThatHangsHoldsUpNobody) {
  static FileSystem* const files = new FileSystem;
  files->Shut(true);
  {
    Reload reload(Reads(files));
    reload.Begin();
    ASSERT_TRUE(files->AwaitReads(1));
    reload.Begin();
    EXPECT_FALSE(reload.Overdue());
  }
  EXPECT_TRUE(files->AwaitReads(1));
  EXPECT_TRUE(files->AwaitUses(0));
}

}  // namespace
}  // namespace kvlink::cli
