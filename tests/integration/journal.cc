#include "tests/integration/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvlink::testing {

Journal::Journal(std::string path)
    : path_(std::move(path)), file_(open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) {
  if (file_.get() < 0) {
    std::perror(path_.c_str());
    std::abort();
  }
  const Contents contents = Read();
  known_.assign(contents.acknowledged.begin(), contents.acknowledged.end());
}

// Writes each line at once, so that a killed process leaves only whole lines.
void Journal::Write(char what, uint64_t number) const {
  const std::string line = absl::StrCat(std::string(1, what), number, "\n");
  if (write(file_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    std::perror(path_.c_str());
    std::abort();
  }
}

void Journal::Acknowledged(uint64_t number) {
  Write('+', number);
  MutexLock lock(&mutex_);
  known_.push_back(number);
}

void Journal::Removed(uint64_t number) {
  Write('-', number);
  MutexLock lock(&mutex_);
  known_.erase(std::remove(known_.begin(), known_.end(), number), known_.end());
  ++removals_;  // last: a caller that sees the new count no longer sees the number
}

std::vector<uint64_t> Journal::known() const {
  MutexLock lock(&mutex_);
  return known_;
}

Journal::Contents Journal::Read() const {
  Contents contents;
  std::ifstream file(path_);
  char what = 0;
  uint64_t number = 0;
  while (file >> what >> number) {
    if (what == '-') {
      contents.started.erase(number);
      contents.acknowledged.erase(number);
      continue;
    }
    contents.started.insert(number);
    if (what == '+') contents.acknowledged.insert(number);
  }
  return contents;
}

}  // namespace kvlink::testing
