// Where spans go: an HTTP server that takes them by POST.
#ifndef KVLINK_WORKER_SERVE_TRACE_COLLECTOR_H_
#define KVLINK_WORKER_SERVE_TRACE_COLLECTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvlink::serve {

struct CollectorUrl {
  bool tls = false;
  std::string host;  // without brackets
  uint16_t port = 0;
  std::string path;  // where spans are posted: that of the URL and "/v1/traces"
};
// Understands "http://host:port/path" and "https://...". INVALID_ARGUMENT.
absl::StatusOr<CollectorUrl> ParseCollectorUrl(absl::string_view url);

// Thread-safety: one thread at a time.
class Collector {
 public:
  // `authorities`: a PEM file of the certificates that sign a collector's; empty: the system's. INVALID_ARGUMENT: it
  // cannot be used.
  static absl::StatusOr<std::unique_ptr<Collector>> Create(CollectorUrl url, const std::string& authorities);
  ~Collector();

  struct Answer {
    int status = 0;              // HTTP
    absl::Duration retry_after;  // what it asked for; zero: nothing
    std::string body;            // of a status of success; as much of it as came, if that was little
  };
  // Posts a body in JSON over a connection of its own, and reads the answer to the end of its header; of a success also
  // its body, within a limit. `until` (SteadyNow() time, asked every tenth of a second) ends it, but for the system's
  // resolver, which has limits of its own. UNAVAILABLE: no connection, one that ended too early, or a certificate that
  // is not trusted; DEADLINE_EXCEEDED; DATA_LOSS: the answer is not HTTP.
  absl::StatusOr<Answer> Post(absl::string_view body, const std::function<absl::Time()>& until);

 private:
  struct Tls;
  class Exchange;
  explicit Collector(CollectorUrl url);

  const CollectorUrl url_;
  std::unique_ptr<Tls> tls_;  // null: plain HTTP
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_TRACE_COLLECTOR_H_
