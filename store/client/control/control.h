// The node's gRPC service as a client uses it: the session, kept open and opened again when it has ended, and calls
// that carry its token.
//
// Thread-safety: all methods. Errors common to all: UNAVAILABLE (with RetryAfter where the node said so),
// DEADLINE_EXCEEDED, UNAUTHENTICATED (the node does not know the key), PERMISSION_DENIED, UNIMPLEMENTED (the node
// speaks no protocol that this build speaks; says which to upgrade).
#ifndef KVLINK_STORE_CLIENT_CONTROL_CONTROL_H_
#define KVLINK_STORE_CLIENT_CONTROL_CONTROL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "proto/store.grpc.pb.h"
#include "store/client/control/counters.h"
#include "store/client/control/options.h"
#include "store/client/control/retry.h"
#include "store/client/control/timer.h"
#include "store/client/control/usage.h"

namespace kvlink::store::client {

struct OpenedSession {
  uint64_t number = 0;  // 1, 2, ...: of this client's sessions
  std::string token;
  std::string node_id;  // 16 bytes
  uint64_t incarnation = 0;
  uint32_t protocol = 0;          // that this build and the node speak
  std::vector<std::string> data;  // "ucx://host:port", as the node names them
  std::string local_socket;
};

class Control {
 public:
  using Stub = v1::Store::Stub;

  // A mistake in the options (files that cannot be read, a key over plain text to another host) is what each call
  // returns. The others outlive it.
  Control(const ControlOptions& options, Timer* timer, RetryPolicy* retries, ClientCounters* counters);
  // Closes the session.
  ~Control();

  // The session; opens one if there is none. One attempt.
  absl::StatusOr<OpenedSession> Session(absl::Time deadline);
  // Of the open session; 0 if there is none.
  uint64_t number() const { return number_.load(std::memory_order_acquire); }
  // Asks the node for a longer session. UNAUTHENTICATED, and number() is another, if the session has ended.
  absl::Status Renew(uint64_t number, absl::Time deadline);
  // That session has ended.
  void Ended(uint64_t number);
  // Pins of that session have become more, or fewer.
  void CountPins(uint64_t number, int64_t change);
  // Ends a session that has no pins and that no call has used since `before`. Does not wait.
  void EndIdle(absl::Time before);
  // A call that is under way uses the session for as long as the result is there.
  std::shared_ptr<void> Use() { return usage_.Hold(std::make_shared<char>()); }

  // A call with retries; one over an ended session is made again in a new one.
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
      return Outcome((stub_.get()->*method)(&context, request, response), context, session->number);
    });
  }
  Stub* stub() const { return stub_.get(); }
  // Before each call. Waits a moment (0.1 s) for the node to be connected again, where it was lost.
  void Prepare(grpc::ClientContext* context, const std::string& token, absl::Time deadline);
  // The outcome of a call. An UNAUTHENTICATED of the session is UNAVAILABLE, to be tried again at once.
  absl::Status Outcome(const grpc::Status& status, const grpc::ClientContext& context, uint64_t session);

 private:
  absl::StatusOr<OpenedSession> OpenSession(absl::Time deadline);
  // What a renewal, asked for at `asked`, came to.
  absl::Status Renewed(const OpenedSession& session, absl::Time asked, const grpc::Status& status,
                       const v1::Session& response, const grpc::ClientContext& context);
  void FillContext(grpc::ClientContext* context, const std::string& token, absl::Time deadline);
  // The timer's: renews the session in good time, waiting for nobody. When it is to be called again.
  absl::Time Keep();
  struct Background;
  // A call nobody waits for; the destructor ends it.
  std::shared_ptr<Background> BeginBackground(const OpenedSession& session, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndBackground(const std::shared_ptr<Background>& call);

  const std::string address_, key_, name_;
  const absl::Status mistake_;  // of the options
  RetryPolicy* const retries_;
  ClientCounters* const counters_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<Stub> stub_;

  std::atomic<uint64_t> number_{0};
  Mutex mutex_;
  CondVar changed_;
  OpenedSession session_ ABSL_GUARDED_BY(mutex_);  // meaningful while number_ is not 0
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  bool opening_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time renew_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time expires_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t pins_ ABSL_GUARDED_BY(mutex_) = 0;  // of the session
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<std::shared_ptr<Background>> background_ ABSL_GUARDED_BY(mutex_);
  Usage usage_;
  std::unique_ptr<Alarm> keep_;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_CONTROL_H_
