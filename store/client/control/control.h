// A client's view of a node's gRPC service: the session, kept open and reopened when it has ended, and calls that carry
// its token.
//
// Thread-safety: all methods. Errors common to all: UNAVAILABLE (with RetryAfter if the node sent one; also if another
// node answers than ControlOptions::node_id names, which then receives no further request), DEADLINE_EXCEEDED,
// UNAUTHENTICATED (the node does not know the key), PERMISSION_DENIED, UNIMPLEMENTED (no common protocol; the message
// says which side to upgrade).
#ifndef KVLINK_STORE_CLIENT_CONTROL_CONTROL_H_
#define KVLINK_STORE_CLIENT_CONTROL_CONTROL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "proto/node_id.h"
#include "proto/store.grpc.pb.h"
#include "store/client/control/counters.h"
#include "store/client/control/options.h"
#include "store/client/control/retry.h"
#include "store/client/control/timer.h"
#include "store/client/control/usage.h"

namespace kvlink::store::client {

struct OpenedSession {
  uint64_t number = 0;  // counts this client's sessions: 1, 2, ...
  std::string token;
  NodeId node_id = {};
  uint64_t incarnation = 0;
  uint32_t protocol = 0;          // agreed on by this build and the node
  std::vector<std::string> data;  // addresses as the node names them: "ucx://host:port"
  std::string local_socket;
};

class Control {
 public:
  using Stub = v1::Store::Stub;

  // Invalid options (unreadable files, a key over plain text to another host) are reported by every call. The other
  // arguments must outlive this.
  Control(const ControlOptions& options, Timer* timer, RetryPolicy* retries, ClientCounters* counters);
  // Closes the session.
  ~Control();

  // Returns the session, opening one if there is none. Makes one attempt.
  absl::StatusOr<OpenedSession> Session(absl::Time deadline);
  // The number of the open session; 0 if there is none.
  uint64_t number() const { return number_.load(std::memory_order_acquire); }
  // Renews the session at the node. UNAUTHENTICATED: the session has ended, and number() has changed.
  absl::Status Renew(uint64_t number, absl::Time deadline);
  // Notes that a session has ended.
  void Ended(uint64_t number);
  // Adds to the number of pins of a session.
  void CountPins(uint64_t number, int64_t change);
  // Ends the session if it has no pins and no call has used it since `before`. Does not block.
  void EndIdle(absl::Time before);
  // A call in progress holds the result, which marks the session as used.
  std::shared_ptr<void> Use() { return usage_.Hold(std::make_shared<char>()); }

  // Makes a call with retries; if the session has ended, retries in a new one.
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response, absl::Time deadline) {
    const auto use = Use();
    return WithRetries(retries_, deadline, [&]() -> absl::Status {
      auto session = Session(deadline);
      if (!session.ok()) return session.status();
      grpc::ClientContext context;
      Prepare(&context, session->token, deadline);
      response->Clear();
      return Outcome((stub().get()->*method)(&context, request, response), context, session->number);
    });
  }
  // For calls that Call does not make.
  std::shared_ptr<Stub> stub() const;
  // Call before each RPC. If the connection to the node was lost, waits briefly (0.1 s) for it to return. A lost
  // connection is made anew with what the TLS files hold now.
  void Prepare(grpc::ClientContext* context, const std::string& token, absl::Time deadline);
  // Converts the outcome of an RPC. UNAUTHENTICATED because of the session becomes UNAVAILABLE, to be retried at once.
  absl::Status Outcome(const grpc::Status& status, const grpc::ClientContext& context, uint64_t session);

 private:
  // A channel to the node. It must not end on a gRPC thread, which would wait for itself.
  struct Line {
    std::shared_ptr<grpc::ChannelCredentials> credentials;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<Stub> stub;
  };
  std::shared_ptr<Line> Dial(std::shared_ptr<grpc::ChannelCredentials> credentials) const;
  // The line for the next call: another one if there is no connection and the TLS files have changed.
  std::shared_ptr<Line> NextLine();
  absl::StatusOr<OpenedSession> OpenSession(absl::Time deadline);
  // Handles the outcome of a renewal that was requested at `asked`.
  absl::Status Renewed(const OpenedSession& session, absl::Time asked, const grpc::Status& status,
                       const v1::Session& response, const grpc::ClientContext& context);
  void FillContext(grpc::ClientContext* context, const std::string& token, absl::Time deadline);
  // Called by the timer: renews the session in good time, without blocking. Returns when to be called again.
  absl::Time Keep();
  struct Background;
  // An asynchronous call over `line`; the destructor cancels it. It exists until DropEnded.
  Background* BeginBackground(std::shared_ptr<Line> line, const OpenedSession& session, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndBackground(Background* call);
  // Destroys calls that have ended.
  void DropEnded() ABSL_LOCKS_EXCLUDED(mutex_);
  // Closes a session that is not in use. Does not wait.
  void Close(const OpenedSession& session);

  const ControlOptions options_;
  const absl::Status mistake_;  // invalid options
  RetryPolicy* const retries_;
  ClientCounters* const counters_;

  mutable Mutex line_mutex_;
  std::shared_ptr<Line> line_ ABSL_GUARDED_BY(line_mutex_);  // null if the options are invalid

  std::atomic<uint64_t> number_{0};
  Mutex mutex_;
  CondVar changed_;
  OpenedSession session_ ABSL_GUARDED_BY(mutex_);  // meaningful while number_ != 0
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  bool opening_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time renew_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time expires_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t pins_ ABSL_GUARDED_BY(mutex_) = 0;  // of the session
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<std::unique_ptr<Background>> background_ ABSL_GUARDED_BY(mutex_);
  Usage usage_;
  std::unique_ptr<Alarm> keep_;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_CONTROL_H_
