#include "transport/grpc/calls.h"

#include <grpc/grpc.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>

#include <utility>

#include "base/status.h"
#include "transport/grpc/status.h"

namespace kvlink::transport {
namespace {

constexpr char kMethod[] = "/kvlink.store.v1.Data/Connect";
constexpr char kCallerMetadata[] = "kvlink-caller-bin";
constexpr int kHolds = 2;  // for a client's call: one for writing, one for reading

// "ipv4:127.0.0.1:34567" -> "127.0.0.1:34567"
std::string PeerName(const std::string& peer) {
  constexpr absl::string_view kIpv4 = "ipv4:";
  return peer.compare(0, kIpv4.size(), kIpv4.data(), kIpv4.size()) == 0 ? peer.substr(kIpv4.size()) : peer;
}

// Owned by gRPC until the call is over.
class RefusedCall : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RefusedCall(const absl::Status& why) { Finish(ToGrpc(why)); }
  void OnDone() override { delete this; }
};

}  // namespace

absl::string_view CallerOf(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find(kCallerMetadata);
  if (found == context.client_metadata().end()) return "";
  return {found->second.data(), found->second.size()};
}

DataService::Reactor RefuseCall(const absl::Status& why) { return new RefusedCall(why); }

void Channels::Begin() {
  MutexLock lock(&mutex_);
  ++calls_;
}

void Channels::End() {
  MutexLock lock(&mutex_);
  --calls_;
  ended_.SignalAll();
}

void Channels::Bury(std::shared_ptr<grpc::Channel> channel) {
  MutexLock lock(&mutex_);
  buried_.push_back(std::move(channel));
}

void Channels::WaitForCalls() {
  std::vector<std::shared_ptr<grpc::Channel>> buried;
  MutexLock lock(&mutex_);
  while (calls_ > 0) ended_.Wait(&mutex_);
  buried.swap(buried_);
}

std::shared_ptr<ClientCall> ClientCall::Start(std::shared_ptr<Mailbox> mailbox, std::shared_ptr<Channels> channels,
                                              std::shared_ptr<grpc::Channel> channel, StreamEvents* events,
                                              const std::string& caller) {
  channels->Begin();
  auto call = std::make_shared<ClientCall>(std::move(mailbox), std::move(channels));
  call->set_events(events);
  call->self_ = call;
  std::shared_ptr<grpc::ClientContext> context;
  {
    MutexLock lock(&call->call_mutex_);
    context = call->context_;
  }
  if (!caller.empty()) context->AddMetadata(kCallerMetadata, caller);
  grpc::GenericStub(std::move(channel))
      .PrepareBidiStreamingCall(context.get(), kMethod, grpc::StubOptions(), call.get());
  call->AddMultipleHolds(kHolds);
  call->StartCall();
  call->ReadMore();
  return call;
}

ClientCall::ClientCall(std::shared_ptr<Mailbox> mailbox, std::shared_ptr<Channels> channels)
    : Stream(std::move(mailbox)), channels_(std::move(channels)), context_(std::make_shared<grpc::ClientContext>()) {}

void ClientCall::End(bool cancelled) {
  if (!cancelled) StartWritesDone();
  RemoveHold();
}

void ClientCall::Cancel() {
  std::shared_ptr<grpc::ClientContext> context;
  {
    MutexLock lock(&call_mutex_);
    context = context_;
  }
  if (context != nullptr) context->TryCancel();
}

void ClientCall::OnDone(const grpc::Status& status) {
  {
    std::shared_ptr<grpc::ClientContext> context;
    MutexLock lock(&call_mutex_);
    context.swap(context_);
  }
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
    Ended(absl::UnauthenticatedError(status.error_message()));
  } else {
    Ended(absl::UnavailableError(status.ok() ? "the other side ended the stream"
                                             : absl::StrCat("gRPC: ", status.error_message(), " (status ",
                                                            static_cast<int>(status.error_code()), ")")));
  }
  Over();
  const auto channels = channels_;
  self_ = nullptr;
  channels->End();
}

std::shared_ptr<ServerCall> ServerCall::Start(std::shared_ptr<Mailbox> mailbox, grpc::CallbackServerContext* context,
                                              std::function<void(std::shared_ptr<ServerCall>)> take) {
  auto call = std::make_shared<ServerCall>(mailbox, context);
  call->self_ = call;
  if (!mailbox->Post([take = std::move(take), call] { take(call); })) call->Close(false);
  call->ReadMore();
  return call;
}

ServerCall::ServerCall(std::shared_ptr<Mailbox> mailbox, grpc::CallbackServerContext* context)
    : Stream(std::move(mailbox)), peer_(PeerName(context->peer())), call_(context->c_call()) {
  grpc_call_ref(context->c_call());
}

void ServerCall::Unref::operator()(grpc_call* call) const { grpc_call_unref(call); }

void ServerCall::End(bool cancelled) {
  Finish(cancelled ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the connection was closed") : grpc::Status::OK);
}

void ServerCall::Cancel() {
  Reference call;
  {
    MutexLock lock(&call_mutex_);
    if (call_ == nullptr) return;
    grpc_call_ref(call_.get());
    call.reset(call_.get());
  }
  grpc_call_cancel(call.get(), nullptr);
}

void ServerCall::ReadFailed() { Ended(absl::UnavailableError("the other side ended the stream")); }

void ServerCall::OnDone() {
  {
    Reference call;
    MutexLock lock(&call_mutex_);
    call.swap(call_);
  }
  ReadFailed();
  Over();
  self_ = nullptr;
}

DataService::DataService(Handler handler) {
  AddMethod(new grpc::internal::RpcServiceMethod(kMethod, grpc::internal::RpcMethod::BIDI_STREAMING, nullptr));
  MarkMethodRawCallback(
      0, new grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>(std::move(handler)));
}

}  // namespace kvlink::transport
