// The changes of keys of etcd, each exactly once and in order, whatever happens to members meanwhile.
//
// The watch reads from one member at a time, and goes on at another where it left off when that one is gone, silent
// (asked after progress_interval without news, left after answer_timeout without an answer) or without a leader.
// Nothing is read from etcd while nobody waits in Next; etcd keeps what is not read.
//
// Thread-safety: Next by one thread at a time; Cancel by any. Ownership: no thread of its own. Lifetime: within its
// Client's.
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
  // For Client::WatchFrom.
  Watch(ClusterChannel* cluster, std::string key, std::string range_end, int64_t revision);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // What comes next: events, or none where the member has said how far it is. Waits for it.
  // DEADLINE_EXCEEDED: nothing came; the message says why where no member answers. The next call goes on.
  // What ends the watch, so that all later calls return it:
  //   OUT_OF_RANGE         etcd is compacted at the revision that would come next, or beyond (compact_revision): read
  //                        anew, watch from there
  //   RESOURCE_EXHAUSTED   one revision has more events than are taken (64 MiB)
  //   CANCELLED            Cancel
  //   FAILED_PRECONDITION, UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT, DATA_LOSS: as Client
  absl::StatusOr<WatchBatch> Next(absl::Time deadline);
  // Ends the watch; a Next that waits returns.
  void Cancel();
  // After OUT_OF_RANGE: the oldest revision that etcd still has.
  std::optional<int64_t> compact_revision() const { return compact_revision_; }

 private:
  using Response = etcdserverpb::WatchResponse;

  absl::StatusOr<WatchBatch> NextOrEnd(absl::Time deadline);
  absl::Status OpenStream(absl::Time deadline);
  // Leaves the member for another; `why` is told if there is none in time.
  void Leave(const absl::Status& why);
  // The answer of Next, if this completes one.
  absl::StatusOr<std::optional<WatchBatch>> Take(Response response);
  absl::Status KeepLastRevision(Response* response);
  absl::Status TakeEnd(const Response& response);
  std::optional<WatchBatch> TakeEvents(const Response& response);

  ClusterChannel* const cluster_;
  const std::string key_, range_end_;  // with the client's prefix
  const std::unique_ptr<Cancellation> cancellation_;
  int64_t next_revision_;
  std::optional<int64_t> compact_revision_;
  absl::Status ended_;  // not OK: for good

  const Endpoint* endpoint_ = nullptr;  // while there is a stream
  std::unique_ptr<WatchStream> stream_;
  std::string token_;  // of the stream
  // Of the stream: when the member was asked for an answer that has not come, and when it last said something.
  absl::Time asked_ = absl::InfinitePast(), heard_ = absl::InfinitePast();
  bool token_renewed_ = false;           // since events or progress came last
  absl::Status trouble_;                 // with the member that was left last, until another one works
  std::unique_ptr<Response> fragments_;  // events of a revision that is not whole yet
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_WATCH_H_
