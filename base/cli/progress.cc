// Queries the width for each drawing, since the window may be resized in between.
#include "base/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"

namespace kvlink::cli {

std::string FormatClock(absl::Duration duration) {
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(duration));
  if (seconds < 3600) return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
  return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

std::string ProgressLine(double done, absl::string_view counts, absl::Duration elapsed, int columns) {
  done = std::min(done, 1.0);
  const bool left_known = done > 0.005 && elapsed > absl::Seconds(1);
  const std::string clock =
      left_known ? absl::StrCat(FormatClock(elapsed * ((1 - done) / done)), " left") : FormatClock(elapsed);
  const std::string percent = done >= 0 ? absl::StrFormat("%3.0f%%  ", 100 * done) : "";
  std::string line = absl::StrCat(percent, counts, "  ", clock);
  constexpr int kWidth = 24;
  if (done >= 0 && (columns == 0 || static_cast<int>(line.size()) + kWidth + 3 <= columns)) {
    const int filled = static_cast<int>(done * kWidth);
    line = absl::StrCat("[", std::string(filled, '#'), std::string(kWidth - filled, '.'), "] ", line);
  }
  if (columns > 0 && static_cast<int>(line.size()) > columns) line.resize(columns);
  return line;
}

namespace {

// 0: unknown. Queried each time, since windows change.
int Columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

}  // namespace

ProgressBar::ProgressBar()
    : terminal_(isatty(STDERR_FILENO) == 1),
      start_(SteadyNow()),
      last_(terminal_ ? absl::InfinitePast() : SteadyNow()) {}

absl::Duration ProgressBar::elapsed() const { return SteadyNow() - start_; }

void ProgressBar::Update(double done, absl::string_view counts) {
  const absl::Time now = SteadyNow();
  if (now - last_ < (terminal_ ? absl::Milliseconds(100) : absl::Seconds(30))) return;
  last_ = now;
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", ProgressLine(done, counts, elapsed(), /*columns=*/0).c_str());
    return;
  }
  // Leaves the last column free: a terminal wraps when it is filled.
  const int columns = Columns();
  std::fprintf(stderr, "\r\x1b[K%s", ProgressLine(done, counts, elapsed(), std::max(0, columns - 1)).c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressBar::Clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
  last_ = absl::InfinitePast();
}

}  // namespace kvlink::cli
