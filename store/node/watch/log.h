// The node's log: one JSON object a line, with `time`, `level`, `event` and the fields of the event. It never holds
// the text of a document, a key or a token. Events that repeat fast are left out and counted ("suppressed" of the next
// one).
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_WATCH_LOG_H_
#define KVLINK_STORE_NODE_WATCH_LOG_H_

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace kvlink::store {

// Gets lines without their end, one call at a time. May be slow: only the calling thread waits, and others that log.
using LogSink = std::function<void(absl::string_view line)>;
void LogToStandardError(absl::string_view line);

class Log {
 public:
  enum class Level { kInfo, kWarning, kError };
  using Value = std::variant<int64_t, double, bool, std::string>;
  using Fields = std::initializer_list<std::pair<absl::string_view, Value>>;

  // Empty: to standard error.
  explicit Log(LogSink sink);
  // `event` is one of a fixed set of names.
  void Write(Level level, absl::string_view event, Fields fields);
  void Info(absl::string_view event, Fields fields = {}) { Write(Level::kInfo, event, fields); }
  void Warning(absl::string_view event, Fields fields = {}) { Write(Level::kWarning, event, fields); }
  void Error(absl::string_view event, Fields fields = {}) { Write(Level::kError, event, fields); }

 private:
  // Lines of one event: at most kBurst at once, and kRate a second.
  static constexpr double kBurst = 20, kRate = 5;
  struct Allowance {
    double lines = kBurst;
    absl::Time since;
    int64_t suppressed = 0;
  };
  const LogSink sink_;
  Mutex mutex_;
  std::map<std::string, Allowance, std::less<>> allowances_ ABSL_GUARDED_BY(mutex_);
};

// `text` as a JSON string, quotes included. What is not ASCII becomes '?'.
std::string JsonString(absl::string_view text);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_WATCH_LOG_H_
