// Sends calls to any member of an etcd cluster that answers. Internal to this folder; users of etcd see client.h.
//
// If a member refuses, stays silent for the time in the options, or belongs to another cluster, the call moves on to
// the next member in turn, until the deadline. CallKind says which calls are retried.
//
// A connection keeps the TLS certificates with which it was made. Once the files have changed, the next one is made
// with the new ones.
//
// Thread-safety: all methods. Lifetime: must outlive its calls.
#ifndef KVLINK_ETCD_CLUSTER_CHANNEL_H_
#define KVLINK_ETCD_CLUSTER_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "etcd/cancellation.h"
#include "etcd/etcd.grpc.pb.h"
#include "etcd/options.h"

namespace kvlink::etcd {

enum class CallKind {
  kRead,          // linearizable; retried at another member
  kSerializable,  // answered by one member, even if it is cut off; retried at another
  kRepeatable,    // a change that may safely be made twice; retried at another member
  // Sent once, to a member that has just proved that it reaches the others. UNKNOWN if it may have arrived and got no
  // answer.
  kWrite,
};

// One member, as named in the endpoints, and a channel to it.
struct Endpoint {
  size_t number = 0;
  std::string address;
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // of the channel
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<etcdserverpb::KV::Stub> kv;
  std::unique_ptr<etcdserverpb::Watch::Stub> watch;
  std::unique_ptr<etcdserverpb::Lease::Stub> lease;
  std::unique_ptr<etcdserverpb::Auth::Stub> auth;
};

class ClusterChannel {
 public:
  // Makes one attempt at `endpoint` and fills in `header` from the answer.
  using Rpc = std::function<grpc::Status(const Endpoint& endpoint, grpc::ClientContext* context,
                                         etcdserverpb::ResponseHeader* header)>;

  // INVALID_ARGUMENT, FAILED_PRECONDITION: as Client::Open.
  static absl::StatusOr<std::unique_ptr<ClusterChannel>> Open(const ClientOptions& options);

  // `cancellation` may be null. Errors: those common to all Client methods; etcd's own, prefixed with the address;
  // CANCELLED.
  absl::Status Call(CallKind kind, absl::Time deadline, Cancellation* cancellation, const Rpc& rpc);

  // Returns a member for a stream, one that has just proved that it reaches the others. Errors as Call.
  absl::StatusOr<std::shared_ptr<const Endpoint>> Connect(absl::Time deadline, Cancellation* cancellation);
  // Prepares the context of a stream to that member: no deadline; etcd ends the stream if the member loses its leader.
  // Returns the token it uses, or "" if none.
  std::string PrepareStream(grpc::ClientContext* context);
  // FAILED_PRECONDITION: the answer came from another cluster.
  absl::Status CheckCluster(const Endpoint& endpoint, const etcdserverpb::ResponseHeader& header);
  // Makes calls begin with the next member, if they would still begin with the one of this number.
  void Leave(size_t number);
  // Drops a token that is no longer accepted: the next call requests a new one, unless another call has already
  // replaced it.
  void DropToken(const std::string& refused);
  // Records a revision seen in an answer: later linearizable answers must not be older.
  void Saw(int64_t revision);

  const ClientOptions& options() const { return options_; }

 private:
  // The outcome of one attempt.
  struct Outcome {
    absl::Status status;
    bool final = true;         // the call's answer; otherwise another member is asked
    bool renew_token = false;  // ask the same member again, with a new token
    std::string token;         // the token that was used
  };

  explicit ClusterChannel(const ClientOptions& options) : options_(options) {}
  // The endpoint with this number. If it is not connected and the TLS files have changed, it gets a new channel.
  std::shared_ptr<const Endpoint> At(size_t number);
  Outcome Try(CallKind kind, size_t number, absl::Time deadline, Cancellation* cancellation, const Rpc& rpc);
  Outcome TryOnce(CallKind kind, size_t number, absl::Time deadline, Cancellation* cancellation, const Rpc& rpc);
  Outcome Judge(CallKind kind, const Endpoint& endpoint, const grpc::Status& status,
                const etcdserverpb::ResponseHeader& header, int64_t floor);
  absl::Status AwaitConnection(const Endpoint& endpoint, absl::Time deadline, Cancellation* cancellation);
  // Sets `token`, to "" if authentication is off.
  Outcome Authenticate(const Endpoint& endpoint, absl::Time deadline, Cancellation* cancellation, std::string* token);
  // Sends a request with no effect that the member can answer only by asking the others.
  grpc::Status Ask(const Endpoint& endpoint, grpc::ClientContext* context, etcdserverpb::ResponseHeader* header) const;
  absl::Status GaveUp(const std::vector<absl::Status>& failures) const;

  const ClientOptions options_;
  size_t members_ = 0;

  mutable Mutex mutex_;
  std::vector<std::shared_ptr<const Endpoint>> endpoints_ ABSL_GUARDED_BY(mutex_);  // as many as members_
  size_t current_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string token_ ABSL_GUARDED_BY(mutex_);
  bool open_to_all_ ABSL_GUARDED_BY(mutex_) = false;  // authentication is off
  std::optional<uint64_t> cluster_ ABSL_GUARDED_BY(mutex_);
  int64_t revision_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<absl::Time> confirmed_ ABSL_GUARDED_BY(mutex_);  // when each endpoint last reached the others
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_CLUSTER_CHANNEL_H_
