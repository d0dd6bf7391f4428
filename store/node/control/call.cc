// A call's message is read only when the scheduler says so; until then, the call costs no more than its headers. gRPC's
// events only change a call's phase, which belongs to the scheduler; no gRPC thread ever blocks here.
#include "store/node/control/call.h"

#include <grpc/grpc.h>

#include <utility>
#include <vector>

#include "base/clock.h"
#include "proto/metadata.h"
#include "proto/wire.h"
#include "store/node/control/scheduler.h"
#include "store/node/retry_after.h"
#include "transport/grpc/status.h"

namespace kvlink::store::node {
namespace {

constexpr int64_t kMaxNestedFields = 8;

grpc::ByteBuffer BufferOf(const std::string& message) {
  const grpc::Slice slice(message);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

void ControlCall::Unref::operator()(grpc_call* call) const { grpc_call_unref(call); }

ControlCall::ControlCall(CallScheduler* scheduler, grpc::CallbackServerContext* context, const ControlMethod* method,
                         Caller caller)
    : scheduler_(scheduler),
      context_(context),
      method_(method),
      caller_(std::move(caller)),
      peer_(context->peer()),
      arrived_(SteadyNow()),
      call_(context->c_call()) {
  grpc_call_ref(context->c_call());
}

std::shared_ptr<ControlCall> ControlCall::Make(CallScheduler* scheduler, grpc::CallbackServerContext* context,
                                               const ControlMethod* method, Caller caller) {
  auto call = std::make_shared<ControlCall>(scheduler, context, method, std::move(caller));
  call->self_ = call;
  return call;
}

grpc::ServerGenericBidiReactor* ControlCall::Answered(CallScheduler* scheduler, grpc::CallbackServerContext* context,
                                                      absl::StatusOr<std::string> answer) {
  const auto call = Make(scheduler, context, nullptr, Caller());
  scheduler->AddAnswered(call);
  call->Answer(answer);
  return call.get();
}

void ControlCall::Read() { StartRead(&read_buffer_); }

absl::StatusOr<std::string> ControlCall::Run() {
  std::vector<grpc::Slice> slices;
  if (!read_buffer_.Dump(&slices).ok()) return absl::InvalidArgumentError("the message cannot be read");
  std::string request;
  request.reserve(read_buffer_.Length());
  for (const grpc::Slice& slice : slices) request.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  slices.clear();
  read_buffer_.Clear();
  const absl::Status bounded = internal::CheckFieldCount(method_->name, {request.data(), request.size()},
                                                         method_->max_fields, method_->nested_field, kMaxNestedFields);
  if (!bounded.ok()) return bounded;
  if (session() != nullptr && !session()->live(SteadyNow())) {
    return absl::UnauthenticatedError("the session has expired: open another one");
  }
  auto answer = method_->run(this, request);
  // gRPC must have released the last message before the call is finished; the sweeper ensures that it does.
  MutexLock lock(&mutex_);
  while (writing_) changed_.Wait(&mutex_);
  return answer;
}

void ControlCall::Answer(const absl::StatusOr<std::string>& answer) {
  const absl::Status& status = answer.status();
  if (method_ != nullptr) scheduler_->metrics()->Ended(method_->operation, SteadyNow() - arrived_, status.code());
  if (const uint32_t retry = RetryAfterMilliseconds(status); retry > 0) {
    context_->AddTrailingMetadata(kRetryAfterMetadata, std::to_string(retry));
  }
  if (!answer.ok() || (method_ != nullptr && method_->streams)) return Finish(transport::ToGrpc(status));
  answer_buffer_ = BufferOf(*answer);
  StartWriteAndFinish(&answer_buffer_, grpc::WriteOptions(), grpc::Status::OK);
}

bool ControlCall::Write(const std::string& message) {
  {
    MutexLock lock(&mutex_);
    while (writing_ && !cancelled()) changed_.Wait(&mutex_);
    if (write_failed_ || cancelled()) return false;
    writing_ = true;
    write_buffer_ = BufferOf(message);
  }
  scheduler_->Writes(this);
  StartWrite(&write_buffer_);
  return true;
}

void ControlCall::Pause(absl::Duration most) {
  const absl::Time until = SteadyNow() + most;
  MutexLock lock(&mutex_);
  while (!cancelled() && SteadyNow() < until) changed_.WaitUntil(&mutex_, until);
}

void ControlCall::Cancel() {
  Reference call;
  {
    MutexLock lock(&mutex_);
    if (call_ == nullptr) return;
    grpc_call_ref(call_.get());
    call.reset(call_.get());
  }
  grpc_call_cancel(call.get(), nullptr);
}

void ControlCall::SetCancelled() {
  cancelled_.store(true);
  MutexLock lock(&mutex_);
  changed_.SignalAll();
}

void ControlCall::OnReadDone(bool ok) {
  if (ok) return scheduler_->Received(shared_from_this());
  scheduler_->Abandon(shared_from_this(), absl::InvalidArgumentError("the call carries no message of at most 4 MiB"));
}

void ControlCall::OnWriteDone(bool ok) {
  scheduler_->Wrote(this);
  MutexLock lock(&mutex_);
  writing_ = false;
  write_buffer_.Clear();
  if (!ok) write_failed_ = true;
  changed_.SignalAll();
}

void ControlCall::OnCancel() {
  SetCancelled();
  scheduler_->Abandon(shared_from_this(), absl::CancelledError("the call has ended"));
}

void ControlCall::OnDone() {
  {
    Reference call;
    MutexLock lock(&mutex_);
    call.swap(call_);
  }
  const auto self = std::move(self_);
  scheduler_->Done(self);
}

}  // namespace kvlink::store::node
