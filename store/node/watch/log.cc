#include "store/node/watch/log.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace kvlink::store {
namespace {

absl::string_view LevelName(Log::Level level) {
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

struct ToJson {
  std::string operator()(int64_t value) const { return absl::StrCat(value); }
  // JSON has no infinities.
  std::string operator()(double value) const { return value - value == 0 ? absl::StrFormat("%.6g", value) : "null"; }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(const std::string& value) const { return JsonString(value); }
};

}  // namespace

void LogToStandardError(absl::string_view line) {
  const std::string whole = absl::StrCat(line, "\n");
  (void)std::fwrite(whole.data(), 1, whole.size(), stderr);
}

std::string JsonString(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const uint8_t byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (byte < 0x20) {
      absl::StrAppendFormat(&out, "\\u%04x", byte);
    } else {
      out.push_back(byte < 0x7f ? c : '?');
    }
  }
  out.push_back('"');
  return out;
}

Log::Log(LogSink sink) : sink_(sink != nullptr ? std::move(sink) : LogToStandardError) {}

void Log::Write(Level level, absl::string_view event, Fields fields) {
  const absl::Time now = absl::Now();
  MutexLock lock(&mutex_);
  const auto [entry, made] = allowances_.try_emplace(std::string(event.data(), event.size()));
  Allowance& allowance = entry->second;
  if (!made) {
    allowance.lines =
        std::min(kBurst, allowance.lines + kRate * absl::ToDoubleSeconds(std::max(now - allowance.since, {})));
  }
  allowance.since = now;
  if (allowance.lines < 1) {
    ++allowance.suppressed;
    return;
  }
  allowance.lines -= 1;
  std::string line = absl::StrCat("{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", now, absl::UTCTimeZone()),
                                  "\",\"level\":\"", LevelName(level), "\",\"event\":", JsonString(event));
  for (const auto& [name, value] : fields) {
    absl::StrAppend(&line, ",", JsonString(name), ":", std::visit(ToJson(), value));
  }
  if (allowance.suppressed > 0) absl::StrAppend(&line, ",\"suppressed\":", std::exchange(allowance.suppressed, 0));
  line.push_back('}');
  sink_(line);
}

}  // namespace kvlink::store
