// One stream of etcd's Watch, between gRPC's threads, where its operations complete, and the thread that waits for its
// answers. Internal to this folder.
//
// Reads at most one answer ahead; while it is not taken, gRPC's flow control holds the member back. Thread-safety: all
// methods. Lifetime: the destructor ends the call and waits until gRPC is done with it, so it must not run on a gRPC
// thread.
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
  // Add headers before Start.
  grpc::ClientContext* context() { return &context_; }
  // Call once.
  void Start(etcdserverpb::Watch::Stub* stub, Request first);
  // Asks the member for its progress; does nothing while the previous request is still being sent.
  void AskProgress();
  // Waits for the next answer. nullopt: none arrived before `deadline`. Error: how the stream ended (UNAVAILABLE if
  // without an error).
  absl::StatusOr<std::optional<Response>> Next(absl::Time deadline);
  // Ends the call; a waiting Next returns.
  void Cancel() { context_.TryCancel(); }

 private:
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  grpc::ClientContext context_;
  Request written_;  // owned by gRPC while writing_
  Response read_;    // owned by gRPC while !arrived_
  Mutex mutex_;
  CondVar changed_;
  bool started_ ABSL_GUARDED_BY(mutex_) = false, writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool arrived_ ABSL_GUARDED_BY(mutex_) = false;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;  // nothing more is read, and no operation starts
  std::optional<grpc::Status> done_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_WATCH_STREAM_H_
