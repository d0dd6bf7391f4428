// What a signal does to a process that starts, serves or ends. Each case is a process of its own, since signals stay
// blocked.
#include "base/cli/end_signals.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <utility>

namespace kvlink::cli {
namespace {

using ::testing::ExitedWithCode;
using ::testing::KilledBySignal;
using Heard = EndSignals::Heard;

constexpr absl::Duration kPatience = absl::Minutes(1);

// The process is killed by SIGALRM if it hangs.
std::unique_ptr<EndSignals> Catch() {
  alarm(60);
  auto signals = EndSignals::Catch();
  if (!signals.ok()) std::abort();
  return *std::move(signals);
}

// To the process, as others do.
void Send(int signal) { kill(getpid(), signal); }

void Expect(bool holds) {
  if (!holds) std::abort();
}

[[noreturn]] void Hang() {
  for (;;) pause();
}

void SignalledWhileItStarts(int signal) {
  const auto signals = Catch();
  Send(signal);
  Hang();
}

TEST(EndSignalsDeathTest, EndsAtOnceWhileItStarts) {
  EXPECT_EXIT(SignalledWhileItStarts(SIGTERM), KilledBySignal(SIGTERM), "");
  EXPECT_EXIT(SignalledWhileItStarts(SIGINT), KilledBySignal(SIGINT), "");
}

// A script's process in the background ignores SIGINT; the first process of a container is spared what it sends itself.
void SignalledThoughItIsIgnored() {
  std::signal(SIGINT, SIG_IGN);
  const auto signals = Catch();
  Send(SIGINT);
  Hang();
}

TEST(EndSignalsDeathTest, EndsAtOnceThoughTheSignalIsIgnored) {
  EXPECT_EXIT(SignalledThoughItIsIgnored(), ExitedWithCode(128 + SIGINT), "");
}

void SignalledWhileItServes() {
  const auto signals = Catch();
  signals->BeginServing();
  Expect(signals->Next(absl::ZeroDuration()) == Heard::kNothing);
  Send(SIGTERM);
  Expect(signals->Next(kPatience) == Heard::kEnd);
  Expect(signals->Next(kPatience) == Heard::kEnd);
  std::_Exit(0);
}

TEST(EndSignalsDeathTest, EndsInOrderWhileItServes) { EXPECT_EXIT(SignalledWhileItServes(), ExitedWithCode(0), ""); }

// The main thread may not even have looked.
void SignalledTwiceWhileItServes() {
  const auto signals = Catch();
  signals->BeginServing();
  Send(SIGTERM);
  Expect(signals->Next(kPatience) == Heard::kEnd);
  Send(SIGINT);
  Hang();
}

TEST(EndSignalsDeathTest, ASecondSignalEndsAtOnce) {
  EXPECT_EXIT(SignalledTwiceWhileItServes(), KilledBySignal(SIGINT), "");
}

void SignalledWhileItEnds() {
  const auto signals = Catch();
  signals->BeginServing();
  signals->BeginEnding();
  Send(SIGTERM);
  Hang();
}

TEST(EndSignalsDeathTest, EndsAtOnceWhileItEnds) { EXPECT_EXIT(SignalledWhileItEnds(), KilledBySignal(SIGTERM), ""); }

void HungUp() {
  const auto signals = Catch();
  // A file that was replaced since it was read at the start is read again, too.
  Send(SIGHUP);
  Expect(signals->Next(kPatience) == Heard::kHangUp);
  signals->BeginServing();
  Expect(signals->Next(absl::ZeroDuration()) == Heard::kNothing);
  Send(SIGHUP);
  Expect(signals->Next(kPatience) == Heard::kHangUp);
  Send(SIGHUP);
  Send(SIGTERM);
  while (signals->Next(kPatience) != Heard::kEnd) {
  }
  Send(SIGHUP);
  std::_Exit(0);
}

TEST(EndSignalsDeathTest, HangingUpEndsNothing) { EXPECT_EXIT(HungUp(), ExitedWithCode(0), ""); }

// As a node with many clients and segment files may be.
void EndsWithoutDescriptors(bool by_signal) {
  auto signals = Catch();
  signals->BeginServing();
  const int next = dup(STDERR_FILENO);
  close(next);
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = static_cast<rlim_t>(next);
  Expect(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  Expect(dup(STDERR_FILENO) < 0);
  if (by_signal) {
    Send(SIGTERM);
    Expect(signals->Next(kPatience) == Heard::kEnd);
  } else {
    signals->BeginEnding();
  }
  signals = nullptr;
  std::_Exit(0);
}

TEST(EndSignalsDeathTest, EndsWithoutDescriptors) {
  EXPECT_EXIT(EndsWithoutDescriptors(true), ExitedWithCode(0), "");
  EXPECT_EXIT(EndsWithoutDescriptors(false), ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvlink::cli
