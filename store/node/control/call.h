// One call of the control service, between gRPC's threads, where its operations begin and end, and the scheduler, which
// decides when it goes on (scheduler.h).
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

// How a method of the service is carried out.
struct ControlMethod {
  std::string name;  // "PutDocuments"
  Operation operation = Operation::kAdministration;
  // Bounds on the fields of its request, checked before it is parsed (proto/wire.h).
  int64_t max_fields = 16;
  int nested_field = 0;
  // Takes long, answers with a stream, and needs the right 'admin' over everything.
  bool streams = false;
  // On a thread of ours; may wait. The request is a message of gRPC as it came; so is the answer, which a stream leaves
  // empty.
  std::function<absl::StatusOr<std::string>(ControlCall* call, const std::string& request)> run;
};

class ControlCall : public grpc::ServerGenericBidiReactor, public std::enable_shared_from_this<ControlCall> {
 public:
  // The caller: a session, or, for a call that opens one, only its key's grant.
  struct Caller {
    Grant grant;
    std::shared_ptr<Session> session;
  };

  ControlCall(CallScheduler* scheduler, grpc::CallbackServerContext* context, const ControlMethod* method,
              Caller caller);
  // Lives until gRPC has done with it, or it is disowned before gRPC has seen it.
  static std::shared_ptr<ControlCall> Make(CallScheduler* scheduler, grpc::CallbackServerContext* context,
                                           const ControlMethod* method, Caller caller);
  void Disown() { self_ = nullptr; }
  // A call that is answered without being asked anything: by `answer`, or with the error.
  static grpc::ServerGenericBidiReactor* Answered(CallScheduler* scheduler, grpc::CallbackServerContext* context,
                                                  absl::StatusOr<std::string> answer);

  // For who carries it out, on any thread.
  const ControlMethod& method() const { return *method_; }
  const Grant& grant() const { return caller_.grant; }
  Session* session() const { return caller_.session.get(); }
  const std::string& peer() const { return peer_; }
  // The client has gone, its time is over, or the node closes: what is left of the work need not be done.
  bool cancelled() const { return cancelled_.load(); }
  // Of a stream: sends a message, and waits until gRPC has taken the one before. False: cancelled.
  bool Write(const std::string& message);
  // Waits, but not when cancelled.
  void Pause(absl::Duration most);

  // For the scheduler. Read and Answer at most once each, in this order; neither under a lock.
  void Read();
  // REQUIRES: the message has arrived. Carries the call out.
  absl::StatusOr<std::string> Run();
  void Answer(const absl::StatusOr<std::string>& answer);
  // Fails gRPC's pending operations of the call. May be called late, and more than once.
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
  grpc::CallbackServerContext* const context_;  // until it is over
  const ControlMethod* const method_;           // null: an Answered one
  const Caller caller_;
  const std::string peer_;
  const absl::Time arrived_;
  std::atomic<bool> cancelled_{false};
  grpc::ByteBuffer read_buffer_, answer_buffer_;

  Mutex mutex_;
  CondVar changed_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false, write_failed_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer write_buffer_;  // gRPC's while writing_
  Reference call_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ControlCall> self_;  // gRPC's reference

  friend class CallScheduler;
  enum class Phase { kWaiting, kBeginning, kReceiving, kQueued, kRunning, kAnswering };
  // The scheduler's, under its lock.
  Phase phase_ = Phase::kWaiting;
  bool ended_early_ = false;  // while kBeginning
  absl::Time deadline_ = absl::InfiniteFuture();
  bool holds_slot_ = false;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_CALL_H_
