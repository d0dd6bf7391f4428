// Progress with rate and remaining time, on standard error. A terminal shows a bar that fits on one line of any width;
// any other output gets one line every half minute.
// Thread-safety: one thread at a time.
#ifndef KVLINK_BASE_CLI_PROGRESS_H_
#define KVLINK_BASE_CLI_PROGRESS_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvlink::cli {

class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar() { Clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Draws at most ten times a second (twice a minute off a terminal). `done`: the fraction done, 0..1; negative if
  // unknown (no bar, no remaining time). `counts`: e.g. "120 documents, 3400 tokens/s".
  void Update(double done, absl::string_view counts);
  // Removes the bar so that a line can be printed; the next Update redraws it.
  void Clear();
  absl::Duration elapsed() const;

 private:
  const bool terminal_;
  const absl::Time start_;
  absl::Time last_;
  bool drawn_ = false;
};

// Formats one line of at most `columns` (0: unlimited). `done` is the fraction done, negative if unknown.
std::string ProgressLine(double done, absl::string_view counts, absl::Duration elapsed, int columns);

// "1:05", "2:03:04".
std::string FormatClock(absl::Duration duration);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_PROGRESS_H_
