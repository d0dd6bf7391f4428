// kill -9 of a process that puts, updates and deletes, at random moments.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "store/embedded/embedded_engine.h"
#include "tests/store/workload.h"
#include "tests/support/seed.h"

namespace kvlink::store {
namespace {

using kvlink::testing::Change;
using kvlink::testing::Ledger;
using kvlink::testing::PutInto;
using kvlink::testing::RunChanges;
using kvlink::testing::ScratchDirectory;
using kvlink::testing::Soak;
using kvlink::testing::TestSeed;

constexpr int kThreads = 2;
constexpr int kChanges = 400;

absl::StatusOr<std::unique_ptr<Store>> OpenSmall(const std::string& path, bool evictions) {
  engine::EngineOptions options;
  options.dram_bytes = 4 << 20;
  options.segment_bytes = 1 << 20;
  options.segment_piece_bytes = 256 << 10;
  options.capacity_bytes = (evictions ? 2 : 160) << 20;
  auto opened = engine::Engine::Open(path, options);
  if (!opened.ok()) return opened.status();
  return StoreOver(*std::move(opened));
}

// The child's report, one fixed-size line at a time (pipes keep lines up to PIPE_BUF whole).
struct Line {
  int32_t thread, document;
  uint64_t version;
  int32_t deletes, acknowledged;
};

[[noreturn]] void Child(const std::string& path, bool evictions, uint64_t seed, int out) {
  auto store = OpenSmall(path, evictions);
  if (!store.ok()) _exit(2);
  const auto tell = [out](const Change& change, bool acknowledged) {
    const Line line = {change.thread, change.document, change.version, change.deletes, acknowledged};
    if (write(out, &line, sizeof(line)) != sizeof(line)) _exit(3);
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const absl::Status status = RunChanges(
          store->get(), PutInto(store->get()), seed, t, kChanges, [&](const Change& change) { tell(change, false); },
          [&](const Change& change) { tell(change, true); });
      if (!status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        _exit(4);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  _exit(0);
}

// The process that is killed: this program again, from its beginning. A fork alone would inherit locks that RocksDB's
// threads hold, and have none of the threads.
constexpr char kChildVariable[] = "KVLINK_KILL_TEST_CHILD";  // "evictions seed fd path"

TEST(KillTest, DISABLED_Child) {
  const char* const told = std::getenv(kChildVariable);
  if (told == nullptr) GTEST_SKIP() << "started by the other test";
  const std::vector<std::string> words = absl::StrSplit(told, absl::MaxSplits(' ', 3));
  uint64_t seed = 0;
  int out = -1;
  ASSERT_TRUE(words.size() == 4 && absl::SimpleAtoi(words[1], &seed) && absl::SimpleAtoi(words[2], &out)) << told;
  Child(words[3], words[0] == "1", seed, out);
}

pid_t StartChild(const std::string& path, bool evictions, uint64_t seed, int out) {
  const std::string told = absl::StrCat(kChildVariable, "=", evictions ? 1 : 0, " ", seed, " ", out, " ", path);
  std::vector<char*> environment = {const_cast<char*>(told.c_str())};
  for (char** variable = environ; *variable != nullptr; ++variable) environment.push_back(*variable);
  environment.push_back(nullptr);
  char name[] = "store_kill_test", filter[] = "--gtest_filter=KillTest.DISABLED_Child",
       disabled[] = "--gtest_also_run_disabled_tests", brief[] = "--gtest_brief=1";
  char* arguments[] = {name, filter, disabled, brief, nullptr};
  pid_t child = -1;
  return posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, arguments, environment.data()) == 0 ? child : -1;
}

void RunOnce(uint64_t seed) {
  SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
  const bool evictions = seed % 2 == 0;
  ScratchDirectory scratch(/*in_memory=*/true);
  const std::string path = scratch.path() + "/store";
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(fcntl(ends[0], F_SETFD, FD_CLOEXEC), 0);
  const pid_t child = StartChild(path, evictions, seed, ends[1]);
  ASSERT_GT(child, 0);
  close(ends[1]);
  std::mt19937_64 random(seed);
  // At a random moment behind a random number of lines; sometimes while the store is being made.
  const int64_t lines_before = static_cast<int64_t>(random() % (kThreads * kChanges));
  const auto pause = std::chrono::microseconds(random() % 3000);
  Ledger ledger;
  int64_t moment = 0;
  Line line;
  bool killed = false;
  if (random() % 8 == 0) {
    std::this_thread::sleep_for(pause * 10);
    kill(child, SIGKILL);
    killed = true;
  }
  while (read(ends[0], &line, sizeof(line)) == sizeof(line)) {
    const Change change{line.thread, line.document, line.version, line.deletes != 0};
    line.acknowledged ? ledger.Acknowledged(change, moment) : ledger.Started(change, moment);
    if (++moment >= lines_before && !killed) {
      std::this_thread::sleep_for(pause);
      kill(child, SIGKILL);  // lines told before it died are still in the pipe
      killed = true;
    }
  }
  close(ends[0]);
  int outcome = 0;
  ASSERT_EQ(waitpid(child, &outcome, 0), child);
  ASSERT_TRUE(WIFSIGNALED(outcome) || WEXITSTATUS(outcome) == 0) << "the child failed with " << WEXITSTATUS(outcome);
  auto store = OpenSmall(path, evictions);
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status status = ledger.Check(store->get(), moment, evictions);
  ASSERT_TRUE(status.ok()) << status;
}

TEST(KillTest, EveryAcknowledgedDocumentIsIntact) {
  const int seeds = Soak() ? 100 : testing::kSanitized ? 2 : 5;
  for (int i = 0; i < seeds && !::testing::Test::HasFatalFailure(); ++i) RunOnce(TestSeed() + i);
}

}  // namespace
}  // namespace kvlink::store
