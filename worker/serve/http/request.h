// The target of a request. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_HTTP_REQUEST_H_
#define KVLINK_WORKER_SERVE_HTTP_REQUEST_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::serve {

struct Target {
  std::string path;   // percent-decoded
  std::string query;  // as sent, without "?"
};

// Understands "/path?query", "http://host/path?query" and "*". INVALID_ARGUMENT: anything else; a malformed escape;
// bytes that must be escaped; an escaped NUL.
absl::StatusOr<Target> ParseTarget(absl::string_view text);

// nullopt: an escape that is not % and two hexadecimal digits.
std::optional<std::string> PercentDecode(absl::string_view text);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_HTTP_REQUEST_H_
