// The two ends of a call of /kvlink.store.v1.Data/Connect. Thread-safety and lifetime as transport/grpc/stream.h.
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

// A channel and its calls. The last reference to a channel must not go on a thread of gRPC's, which would wait for
// itself; so a wire holds it, and this takes over where calls outlive wires. Thread-safety: all of it.
class Channels {
 public:
  void Begin();
  void End();
  void Bury(std::shared_ptr<grpc::Channel> channel);
  // Until all calls that began are over, which are cancelled. Not on a thread of gRPC's.
  void WaitForCalls();

 private:
  Mutex mutex_;
  CondVar ended_;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::shared_ptr<grpc::Channel>> buried_ ABSL_GUARDED_BY(mutex_);
};

class ClientCall : public Stream, private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Begins a call, which says who calls in its headers. `events` are told on the progress thread, which this is, and
  // keep the channel until it is over.
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
  // For the handler of the call, which returns it. `take` gets it on the progress thread, before anything is told;
  // where that thread has ended, the call is refused.
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
  Reference call_ ABSL_GUARDED_BY(call_mutex_);  // until the call is over: it holds what was written last
  std::shared_ptr<ServerCall> self_;             // gRPC's reference
};

// The service with that one method.
class DataService : public grpc::Service {
 public:
  using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>*;
  using Handler = std::function<Reactor(grpc::CallbackServerContext* context)>;
  explicit DataService(Handler handler);
};

// Whom the headers of a call name; empty: nobody.
absl::string_view CallerOf(const grpc::CallbackServerContext& context);
// For the handler of a call that ends with an error, of which nothing is read.
DataService::Reactor RefuseCall(const absl::Status& why);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_CALLS_H_
