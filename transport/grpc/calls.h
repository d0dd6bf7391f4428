// The client and server ends of a /kvlink.store.v1.Data/Connect call. Thread-safety and lifetime as
// transport/grpc/stream.h.
#ifndef KVLINK_TRANSPORT_GRPC_CALLS_H_
#define KVLINK_TRANSPORT_GRPC_CALLS_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "transport/grpc/stream.h"

namespace kvlink::transport {

// Counts calls and keeps their channels alive. The last reference to a channel must not be dropped on a gRPC thread,
// which would wait for itself. Wires hold channels; where a call outlives its wire, this class takes the channel over.
// Thread-safety: all methods.
class Channels {
 public:
  void Begin();
  void End();
  void Bury(std::shared_ptr<grpc::Channel> channel);
  // Waits until all begun calls are over; they have been cancelled. Must not be called on a gRPC thread.
  void WaitForCalls();

 private:
  Mutex mutex_;
  CondVar ended_;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::shared_ptr<grpc::Channel>> buried_ ABSL_GUARDED_BY(mutex_);
};

class ClientCall : public Stream, private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Starts a call that names `caller` in its headers. Must be called on the progress thread, where `events` are then
  // delivered; `events` keeps the channel until the call is over.
  static std::shared_ptr<ClientCall> Start(std::shared_ptr<Mailbox> mailbox, std::shared_ptr<Channels> channels,
                                           std::shared_ptr<grpc::Channel> channel, StreamEvents* events,
                                           const std::string& caller);
  ClientCall(std::shared_ptr<Mailbox> mailbox, std::shared_ptr<Channels> channels);

 private:
  void StartReading(grpc::ByteBuffer* into) override { StartRead(into); }
  void StartWriting(const grpc::ByteBuffer* from) override { StartWrite(from); }
  void End(bool cancelled) override;
  void Cancel() override;
  bool reads_to_the_end() const override { return true; }
  void ReadFailed() override { RemoveHold(); }
  void OnReadDone(bool ok) override { ReadDone(ok); }
  void OnWriteDone(bool ok) override { WriteDone(ok); }
  void OnDone(const grpc::Status& status) override;

  const std::shared_ptr<Channels> channels_;
  Mutex call_mutex_;
  std::shared_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(call_mutex_);  // until the call is over
  std::shared_ptr<ClientCall> self_;                                           // gRPC's reference
};

class ServerCall : public Stream, public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Called by the handler of the call, which returns the result as its reactor. `take` receives it on the progress
  // thread before any event; if that thread has ended, the call is refused.
  static std::shared_ptr<ServerCall> Start(std::shared_ptr<Mailbox> mailbox, grpc::CallbackServerContext* context,
                                           std::function<void(std::shared_ptr<ServerCall>)> take);
  ServerCall(std::shared_ptr<Mailbox> mailbox, grpc::CallbackServerContext* context);
  const std::string& peer() const { return peer_; }

 private:
  void StartReading(grpc::ByteBuffer* into) override { StartRead(into); }
  void StartWriting(const grpc::ByteBuffer* from) override { StartWrite(from); }
  void End(bool cancelled) override;
  void Cancel() override;
  bool reads_to_the_end() const override { return false; }
  void ReadFailed() override;
  void OnReadDone(bool ok) override { ReadDone(ok); }
  void OnWriteDone(bool ok) override { WriteDone(ok); }
  void OnCancel() override { ReadFailed(); }
  void OnDone() override;

  struct Unref {
    void operator()(grpc_call* call) const;
  };
  using Reference = std::unique_ptr<grpc_call, Unref>;

  const std::string peer_;
  Mutex call_mutex_;
  Reference call_ ABSL_GUARDED_BY(call_mutex_);  // until the call is over; holds what was written last
  std::shared_ptr<ServerCall> self_;             // gRPC's reference
};

// The service with this one method.
class DataService : public grpc::Service {
 public:
  using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>*;
  using Handler = std::function<Reactor(grpc::CallbackServerContext* context)>;
  explicit DataService(Handler handler);
};

// Returns the caller named in a call's headers, or "" if none.
absl::string_view CallerOf(const grpc::CallbackServerContext& context);
// Returns a reactor that ends the call with `why` and reads nothing from it.
DataService::Reactor RefuseCall(const absl::Status& why);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_CALLS_H_
