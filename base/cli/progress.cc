#include "base/cli/progress.h"

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

ProgressBar::ProgressBar() : shown_(isatty(STDERR_FILENO) == 1), start_(SteadyNow()), last_(absl::InfinitePast()) {}

absl::Duration ProgressBar::elapsed() const { return SteadyNow() - start_; }

void ProgressBar::Update(double done, absl::string_view counts) {
  if (!shown_) return;
  const absl::Time now = SteadyNow();
  if (now - last_ < absl::Milliseconds(100)) return;
  last_ = now;
  std::string line;
  if (done >= 0) {
    constexpr int kWidth = 24;
    done = std::min(done, 1.0);
    const int filled = static_cast<int>(done * kWidth);
    absl::StrAppendFormat(&line, "[%s%s] %3.0f%%  ", std::string(filled, '#'), std::string(kWidth - filled, '.'),
                          100 * done);
  }
  absl::StrAppend(&line, counts);
  if (done > 0.005 && elapsed() > absl::Seconds(1)) {
    absl::StrAppend(&line, "  ", FormatClock(elapsed() * ((1 - done) / done)), " left");
  } else {
    absl::StrAppend(&line, "  ", FormatClock(elapsed()));
  }
  std::fprintf(stderr, "\r\x1b[K%s", line.c_str());
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
