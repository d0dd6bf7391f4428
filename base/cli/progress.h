// Progress with rate and time left, on standard error: a bar where that is a terminal, on one line of it however narrow
// it is; elsewhere a line every half minute.
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

  // Draws at most ten times a second, or twice a minute. `done` is the share done, 0..1; below 0: not known (no bar, no
  // time left). `counts`: "120 documents, 3400 tokens/s".
  void Update(double done, absl::string_view counts);
  // Removes the bar, so that a line can be printed; the next Update draws it again.
  void Clear();
  absl::Duration elapsed() const;

 private:
  const bool terminal_;
  const absl::Time start_;
  absl::Time last_;
  bool drawn_ = false;
};

// One line of at most `columns` (0: any number) for a share done (below 0: not known) after `elapsed`.
std::string ProgressLine(double done, absl::string_view counts, absl::Duration elapsed, int columns);

// "1:05", "2:03:04".
std::string FormatClock(absl::Duration duration);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_PROGRESS_H_
