// One call of the control service, between gRPC's threads, where its operations start and complete, and the scheduler,
// which decides when it proceeds (scheduler.h).
//
// Thread-safety: as each method says. Lifetime: kept by gRPC until the call is over, and by the scheduler.
#ifndef KVLINK_STORE_NODE_CONTROL_CALL_H_
#define KVLINK_STORE_NODE_CONTROL_CALL_H_

#include <grpcpp/generic/async_generic_service.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/node/access.h"
#include "store/node/sessions.h"
#include "store/node/watch/metrics.h"

namespace kvlink::store::node {

class CallScheduler;
class ControlCall;

// How a method of the service is executed.
struct ControlMethod {
  std::string name;  // "PutDocuments"
  Operation operation = Operation::kAdministration;
  // Limits on the request's fields, checked before parsing (proto/wire.h).
  int64_t max_fields = 16;
  int nested_field = 0;
  // Long-running; answers with a stream and requires the `admin` right on everything.
  bool streams = false;
  // Runs on a thread of ours; may block. Request and answer are serialised messages; a streaming method returns an
  // empty answer.
  std::function<absl::StatusOr<std::string>(ControlCall* call, const std::string& request)> run;
};

class ControlCall : public grpc::ServerGenericBidiReactor, public std::enable_shared_from_this<ControlCall> {
 public:
  // The caller: a session or, for a call that opens one, only the grant of its key.
  struct Caller {
    Grant grant;
    std::shared_ptr<Session> session;
  };

  ControlCall(CallScheduler* scheduler, grpc::CallbackServerContext* context, const ControlMethod* method,
              Caller caller);
  // The object lives until gRPC is done with it, or until Disown() if gRPC has not seen it.
  static std::shared_ptr<ControlCall> Make(CallScheduler* scheduler, grpc::CallbackServerContext* context,
                                           const ControlMethod* method, Caller caller);
  void Disown() { self_ = nullptr; }
  // Returns a call that is answered immediately, with `answer` or its error, without reading the request.
  static grpc::ServerGenericBidiReactor* Answered(CallScheduler* scheduler, grpc::CallbackServerContext* context,
                                                  absl::StatusOr<std::string> answer);

  // For the thread that executes the call, and any other.
  const ControlMethod& method() const { return *method_; }
  const Grant& grant() const { return caller_.grant; }
  Session* session() const { return caller_.session.get(); }
  const std::string& peer() const { return peer_; }
  // The client has gone, the deadline has passed or the node is closing: remaining work may be skipped.
  bool cancelled() const { return cancelled_.load(); }
  // For streams: sends a message after waiting until gRPC has taken the previous one. Returns false if cancelled.
  bool Write(const std::string& message);
  // Sleeps for at most `most`; returns early if cancelled.
  void Pause(absl::Duration most);

  // For the scheduler. Read and Answer at most once each, in this order, and not under a lock.
  void Read();
  // Executes the call. REQUIRES: the message has arrived.
  absl::StatusOr<std::string> Run();
  void Answer(const absl::StatusOr<std::string>& answer);
  // Fails gRPC's pending operations on the call. May be called late, and more than once.
  void Cancel();
  void SetCancelled();

 private:
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  struct Unref {
    void operator()(grpc_call* call) const;
  };
  using Reference = std::unique_ptr<grpc_call, Unref>;

  CallScheduler* const scheduler_;
  grpc::CallbackServerContext* const context_;  // valid until the call is over
  const ControlMethod* const method_;           // null for calls made by Answered
  const Caller caller_;
  const std::string peer_;
  const absl::Time arrived_;
  std::atomic<bool> cancelled_{false};
  grpc::ByteBuffer read_buffer_, answer_buffer_;

  Mutex mutex_;
  CondVar changed_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false, write_failed_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer write_buffer_;  // owned by gRPC while writing_
  Reference call_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ControlCall> self_;  // gRPC's reference

  friend class CallScheduler;
  enum class Phase { kWaiting, kBeginning, kReceiving, kQueued, kRunning, kAnswering };
  // Used by the scheduler, under its lock.
  Phase phase_ = Phase::kWaiting;
  bool ended_early_ = false;  // set while kBeginning
  absl::Time deadline_ = absl::InfiniteFuture();
  bool holds_slot_ = false;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_CALL_H_
