// Sends one encoding to the node.
//
// Thread-safety: functions on thread-safe parts; a call blocks.
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
#include "store/client/data/arena.h"
#include "store/client/data/node_connection.h"
#include "store/store.h"

namespace kvlink::store::client {

// Ends a push in progress on another thread. Thread-safety: all methods.
class PushEnd {
 public:
  // Makes the push, and any begun later, end soon with CANCELLED.
  void Cancel();
  bool cancelled() const;
  // Registers the push to be told by Cancel, as if its connection had closed.
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
  // Returns the slice to send a slab from without a copy, if it lies in registered memory.
  std::function<std::optional<transport::Slice>(absl::Span<const std::byte>)> registered;
  Arena* sending;
  // The attempt ends when the node has shown no sign of life for this long.
  absl::Duration silence = absl::InfiniteDuration();
  PushEnd* end = nullptr;  // may be null
  // Updated by each attempt. Id of a commit by an earlier attempt that had sent all slabs and got no answer; 0: none.
  uint64_t committed = 0;
  bool offered = false;  // some attempt has sent its commit, so what is stored may be ours
  bool silent = false;   // the last attempt ended because of `silence`
};

// Makes one attempt. After it fails, the caller's slabs are no longer read. Errors as Store::Put, and CANCELLED by
// PushOrder::end. A push that ended with UNAVAILABLE or CANCELLED may have been carried out.
absl::StatusOr<PutResult> PushOnce(const std::shared_ptr<NodeConnection>& connection, PushOrder* order,
                                   absl::Time deadline);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_PUSH_H_
