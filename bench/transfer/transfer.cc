// Times movers in turns within each round, so that disturbances of a shared machine affect all of them.
#include "bench/transfer/transfer.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "base/checksum.h"
#include "base/status.h"
#include "bench/bench_common.h"

namespace kvlink::bench {

absl::StatusOr<std::vector<Moved>> MeasureMovers(absl::Span<Mover* const> movers, const EncodingShape& shape,
                                                 int64_t round_bytes, int rounds) {
  struct Samples {
    std::vector<double> turns, first, whole;
  };
  std::vector<Samples> samples(movers.size());
  const int64_t count = std::max<int64_t>(1, round_bytes / kTurnsOfRound / shape.bytes());
  for (int turn = -kTurnsOfRound; turn < rounds * kTurnsOfRound; ++turn) {
    for (size_t i = 0; i < movers.size(); ++i) {
      double took = 0;
      for (int64_t n = 0; n < count; ++n) {
        const auto time = movers[i]->Move(shape);
        if (!time.ok()) return Annotate(time.status(), movers[i]->name());
        took += time->whole;
        if (turn < 0) continue;
        samples[i].first.push_back(time->first);
        samples[i].whole.push_back(time->whole);
      }
      if (turn >= 0) samples[i].turns.push_back(1e-9 * static_cast<double>(count * shape.bytes()) / took);
    }
  }
  std::vector<Moved> moved;
  for (const Samples& of : samples) moved.push_back({Median(of.turns), Median(of.first), Median(of.whole), of.turns});
  return moved;
}

void FillRing(std::byte* data, int64_t bytes) {
  uint64_t state = 88172645463325252;
  for (int64_t at = 0; at + 8 <= bytes; at += 8) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    std::memcpy(data + at, &state, 8);
  }
}

std::vector<uint64_t> RingChecksums(std::byte* data, int64_t bytes) {
  FillRing(data, bytes);
  std::vector<uint64_t> checksums;
  for (int64_t at = 0; at < bytes; at += kTransferUnit) checksums.push_back(Xxh3(data + at, kTransferUnit));
  std::memset(data, 0, static_cast<size_t>(bytes));
  return checksums;
}

absl::StatusOr<std::unique_ptr<ServingProcess>> ServingProcess::Start(const std::vector<std::string>& arguments) {
  int ends[2];
  if (pipe(ends) != 0) return absl::UnavailableError("no pipe");
  std::vector<char*> words;
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  const pid_t process = fork();
  if (process == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    execvp(words[0], words.data());
    _exit(127);
  }
  close(ends[1]);
  std::unique_ptr<ServingProcess> started(new ServingProcess(process));
  char letter = 0;
  while (read(ends[0], &letter, 1) == 1 && letter != '\n') started->first_line_ += letter;
  close(ends[0]);
  if (process < 0 || letter != '\n') return absl::UnavailableError(absl::StrCat(arguments[0], " did not start"));
  return started;
}

ServingProcess::~ServingProcess() {
  if (process_ <= 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
}

void ServeForever(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
  for (;;) pause();
}

}  // namespace kvlink::bench
