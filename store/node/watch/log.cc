// Lines are formatted where they are logged and written by a separate thread, so that a pipe without a reader blocks
// only that thread. Each write to standard error first checks that it can take data, so that even that thread can be
// stopped.
#include "store/node/watch/log.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"

namespace kvlink::store::node {
namespace {

constexpr int kPollMilliseconds = 100;
constexpr absl::Duration kGoodbye = absl::Seconds(1);
constexpr size_t kPipeTakes = 4096;  // a writable pipe takes at least this much

using Json = nlohmann::ordered_json;

const char* LevelName(Log::Level level) {
  switch (level) {
    case Log::Level::kInfo:
      return "info";
    case Log::Level::kWarning:
      return "warning";
    case Log::Level::kError:
      return "error";
  }
  return "info";
}

std::string Dump(const Json& line) { return line.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string TimeOf(absl::Time now) { return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", now, absl::UTCTimeZone()); }

}  // namespace

Log::Log(LogSink sink) : sink_(std::move(sink)), writer_("log", [this] { Run(); }) {}

Log::~Log() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
    const absl::Time until = SteadyNow() + kGoodbye;
    while ((writing_ || !queue_.empty()) && SteadyNow() < until) changed_.WaitUntil(&mutex_, until);
    hurry_.store(true);
  }
  writer_.Join();
}

void Log::Write(Level level, absl::string_view event, Fields fields) {
  const absl::Time now = SteadyNow();
  Json line = {{"time", TimeOf(absl::Now())}, {"level", LevelName(level)}, {"event", std::string(event)}};
  for (const auto& [name, value] : fields) {
    std::visit([&, key = std::string(name)](const auto& of) { line[key] = of; }, value);
  }
  MutexLock lock(&mutex_);
  const auto [entry, made] = allowances_.try_emplace(std::string(event));
  Allowance& allowance = entry->second;
  if (!made) {
    allowance.lines = std::min(kBurst, allowance.lines + kRate * absl::ToDoubleSeconds(now - allowance.since));
  }
  allowance.since = now;
  if (allowance.lines < 1) {
    ++allowance.suppressed;
    return;
  }
  allowance.lines -= 1;
  if (allowance.suppressed > 0) line["suppressed"] = std::exchange(allowance.suppressed, 0);
  std::string text = Dump(line);
  const int64_t bytes = static_cast<int64_t>(text.size());
  if (queued_bytes_ + bytes > kMaxQueuedBytes) {
    dropped_.fetch_add(1);
    return;
  }
  queued_bytes_ += bytes;
  queue_.push_back(std::move(text));
  changed_.SignalAll();
}

void Log::Flush() {
  MutexLock lock(&mutex_);
  while (writing_ || !queue_.empty()) changed_.Wait(&mutex_);
}

void Log::Run() {
  int64_t said = 0;
  while (true) {
    std::string line;
    {
      MutexLock lock(&mutex_);
      writing_ = false;
      changed_.SignalAll();
      while (queue_.empty() && !stop_) changed_.Wait(&mutex_);
      if (queue_.empty()) return;
      line = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= static_cast<int64_t>(line.size());
      writing_ = true;
    }
    WriteLine(line);
    if (sink_ == nullptr && hurry_.load()) return;  // the rest would not be taken
    if (const int64_t dropped = dropped_.load(); dropped > said) {
      WriteLine(Dump(Json{{"time", TimeOf(absl::Now())},
                          {"level", LevelName(Level::kWarning)},
                          {"event", "log_dropped"},
                          {"lines", dropped - std::exchange(said, dropped)}}));
    }
  }
}

void Log::WriteLine(const std::string& line) {
  if (sink_ != nullptr) return sink_({line.data(), line.size()});
  const std::string whole = absl::StrCat(line, "\n");
  absl::string_view rest = whole;
  while (!rest.empty()) {
    const absl::string_view piece = rest.substr(0, kPipeTakes);
    if (!WriteStandardError(piece)) return;
    rest.remove_prefix(piece.size());
  }
}

bool Log::WriteStandardError(absl::string_view text) {
  while (!text.empty()) {
    pollfd takes{STDERR_FILENO, POLLOUT, 0};
    const int ready = poll(&takes, 1, kPollMilliseconds);
    if (ready == 0 || (ready < 0 && errno == EINTR)) {
      if (hurry_.load()) return false;
      continue;
    }
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written > 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR && errno != EAGAIN) {
      return false;
    }
  }
  return true;
}

}  // namespace kvlink::store::node
