// One stream of etcd's Watch between gRPC's threads, where its operations end, and the thread that waits for what they
// bring. Of this folder.
//
// At most one answer is read ahead; gRPC's flow control holds the member back while nobody takes it.
// Thread-safety: all methods. Lifetime: the destructor ends the call and waits until gRPC is done with it, so it runs
// on no thread of gRPC's.
#ifndef KVLINK_ETCD_WATCH_STREAM_H_
#define KVLINK_ETCD_WATCH_STREAM_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "etcd/etcd.grpc.pb.h"

namespace kvlink::etcd {

class WatchStream : private grpc::ClientBidiReactor<etcdserverpb::WatchRequest, etcdserverpb::WatchResponse> {
 public:
  using Request = etcdserverpb::WatchRequest;
  using Response = etcdserverpb::WatchResponse;

  WatchStream() = default;
  ~WatchStream() override;
  // Headers go in before Start.
  grpc::ClientContext* context() { return &context_; }
  // Once.
  void Start(etcdserverpb::Watch::Stub* stub, Request first);
  // Sends how far the member is to be asked; nothing if the request before is still on its way.
  void AskProgress();
  // The next answer. Nothing: none came until `deadline`. An error: how the stream ended (UNAVAILABLE if it just did).
  absl::StatusOr<std::optional<Response>> Next(absl::Time deadline);
  // Ends the call; Next returns.
  void Cancel() { context_.TryCancel(); }

 private:
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  grpc::ClientContext context_;
  Request written_;  // gRPC's while writing_
  Response read_;    // gRPC's while there is no arrived_
  Mutex mutex_;
  CondVar changed_;
  bool started_ ABSL_GUARDED_BY(mutex_) = false, writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool arrived_ ABSL_GUARDED_BY(mutex_) = false;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;  // nothing is read any more, and no operation begins
  std::optional<grpc::Status> done_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_WATCH_STREAM_H_
