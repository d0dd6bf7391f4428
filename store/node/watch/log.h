// The node's log: one JSON object per line, with `time`, `level`, `event` and the event's fields. It never contains a
// document's text, a key or a token. Rapidly repeating events are omitted and counted (in `suppressed` of the next
// one).
//
// Logging never waits for the log's reader: lines are queued, up to kMaxQueuedBytes, and a thread writes them. Lines
// that do not fit are dropped; the next line written says how many.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_WATCH_LOG_H_
#define KVLINK_STORE_NODE_WATCH_LOG_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace kvlink::store::node {

// Receives lines without their newline, one call at a time, on the log's thread. May be slow, but must return: the
// log's destructor waits for it.
using LogSink = std::function<void(absl::string_view line)>;

class Log {
 public:
  static constexpr int64_t kMaxQueuedBytes = int64_t{1} << 20;
  enum class Level { kInfo, kWarning, kError };
  using Value = std::variant<int64_t, double, bool, std::string>;
  using Fields = std::initializer_list<std::pair<absl::string_view, Value>>;

  // An empty sink means standard error, which may be a pipe without a reader.
  explicit Log(LogSink sink);
  // Writes the queued lines, but waits at most a second if standard error takes nothing.
  ~Log();
  // `event` is one of a fixed set of names.
  void Write(Level level, absl::string_view event, Fields fields);
  void Info(absl::string_view event, Fields fields = {}) { Write(Level::kInfo, event, fields); }
  void Warning(absl::string_view event, Fields fields = {}) { Write(Level::kWarning, event, fields); }
  void Error(absl::string_view event, Fields fields = {}) { Write(Level::kError, event, fields); }

  // Number of lines dropped for lack of room.
  int64_t dropped() const { return dropped_.load(); }
  // Waits until everything logged before is written.
  void Flush();

 private:
  // Limits per event: at most kBurst lines at once, and kRate per second.
  static constexpr double kBurst = 20, kRate = 5;
  struct Allowance {
    double lines = kBurst;
    absl::Time since;
    int64_t suppressed = 0;
  };
  void Run();
  void WriteLine(const std::string& line);
  bool WriteStandardError(absl::string_view text);

  const LogSink sink_;
  std::atomic<int64_t> dropped_{0};
  std::atomic<bool> hurry_{false};  // write to standard error for at most another second
  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, Allowance, std::less<>> allowances_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Thread writer_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_WATCH_LOG_H_
