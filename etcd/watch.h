// Delivers the changes of keys in etcd, each exactly once and in order, whatever happens to members in the meantime.
//
// A watch reads from one member at a time. It resumes at another member if that one is gone, has no leader, or is
// silent (asked for its progress after progress_interval without news, abandoned after answer_timeout without an
// answer). It reads from etcd only while a thread waits in Next; etcd keeps the rest.
//
// Thread-safety: Next from one thread at a time; Cancel from any. Ownership: no thread of its own. Lifetime: must not
// outlive its Client.
#ifndef KVLINK_ETCD_WATCH_H_
#define KVLINK_ETCD_WATCH_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "etcd/types.h"

namespace etcdserverpb {
class WatchResponse;
}

namespace kvlink::etcd {

class Cancellation;
class ClusterChannel;
struct Endpoint;
class WatchStream;

class Watch {
 public:
  // Used by Client::WatchFrom.
  Watch(ClusterChannel* cluster, std::string key, std::string range_end, int64_t revision);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Waits for the next batch: events, or none if the member only reported its progress. DEADLINE_EXCEEDED: nothing
  // arrived; if no member answers, the message says why. The next call continues.
  // Errors that end the watch, so that all later calls return them too:
  //   OUT_OF_RANGE         etcd has compacted the next revision or beyond (compact_revision): read everything again and
  //                        watch from there
  //   RESOURCE_EXHAUSTED   one revision has more events than the limit (64 MiB)
  //   CANCELLED            Cancel
  //   FAILED_PRECONDITION, UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT, DATA_LOSS: as Client
  absl::StatusOr<WatchBatch> Next(absl::Time deadline);
  // Ends the watch; a waiting Next returns.
  void Cancel();
  // After OUT_OF_RANGE: the oldest revision etcd still has.
  std::optional<int64_t> compact_revision() const { return compact_revision_; }

 private:
  using Response = etcdserverpb::WatchResponse;

  absl::StatusOr<WatchBatch> NextOrEnd(absl::Time deadline);
  absl::Status OpenStream(absl::Time deadline);
  // Abandons the member for another; `why` is reported if no other answers in time.
  void Leave(const absl::Status& why);
  // Returns the answer for Next, if `response` completes one.
  absl::StatusOr<std::optional<WatchBatch>> Take(Response response);
  absl::Status KeepLastRevision(Response* response);
  absl::Status TakeEnd(const Response& response);
  std::optional<WatchBatch> TakeEvents(const Response& response);

  ClusterChannel* const cluster_;
  const std::string key_, range_end_;  // including the client's prefix
  const std::unique_ptr<Cancellation> cancellation_;
  int64_t next_revision_;
  std::optional<int64_t> compact_revision_;
  absl::Status ended_;  // not OK: permanent

  std::shared_ptr<const Endpoint> endpoint_;  // set while there is a stream
  std::unique_ptr<WatchStream> stream_;
  std::string token_;  // the stream's
  // For the stream: when the member was asked for an answer that has not arrived, and when it last sent anything.
  absl::Time asked_ = absl::InfinitePast(), heard_ = absl::InfinitePast();
  bool token_renewed_ = false;           // since the last events or progress
  absl::Status trouble_;                 // with the member abandoned last, until another one works
  std::unique_ptr<Response> fragments_;  // events of an incomplete revision
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_WATCH_H_
