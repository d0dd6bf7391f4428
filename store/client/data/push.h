// One encoding on its way to the node.
//
// Thread-safety: pure functions over thread-safe parts; a call waits.
#ifndef KVLINK_STORE_CLIENT_DATA_PUSH_H_
#define KVLINK_STORE_CLIENT_DATA_PUSH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "proto/manifest.h"
#include "store/client/control/counters.h"
#include "store/client/data/arena.h"
#include "store/client/data/node_connection.h"
#include "store/store.h"

namespace kvlink::store::client {

// Ends a push that is under way on another thread. Thread-safety: all methods.
class PushEnd {
 public:
  // The push, and each that begins, ends with CANCELLED soon.
  void Cancel();
  bool cancelled() const;
  // Who is to hear of it: as a connection that closed.
  void Attach(const std::shared_ptr<AnswerSink>& push);

 private:
  mutable Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::weak_ptr<AnswerSink> push_ ABSL_GUARDED_BY(mutex_);
};

struct PushOrder {
  std::string ns;
  const Manifest* manifest;
  absl::Span<const absl::Span<const std::byte>> slabs;
  // The slice to send a slab from without a copy, if it lies in registered memory.
  std::function<std::optional<transport::Slice>(absl::Span<const std::byte>)> registered;
  Arena* sending;
  ClientCounters* counters;
  // The attempt ends when the node has given no sign of itself for so long.
  absl::Duration silence = absl::InfiniteDuration();
  PushEnd* end = nullptr;  // may be null
  // Kept up to date. A commit of an earlier attempt all of whose slabs were sent, and whose answer did not come; 0:
  // none.
  uint64_t committed = 0;
  bool offered = false;  // some attempt has sent its commit: what is stored may be ours
  bool silent = false;   // the last attempt ended for `silence`
};

// One attempt. When it has failed, nothing of the caller's slabs is read any more. Errors as Store::Put, and CANCELLED
// by PushOrder::end; what UNAVAILABLE or CANCELLED ended may have been carried out.
absl::StatusOr<PutResult> PushOnce(const std::shared_ptr<NodeConnection>& connection, PushOrder* order,
                                   absl::Time deadline);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_PUSH_H_
