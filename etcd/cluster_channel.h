// Calls to whichever member of an etcd cluster answers. Of this folder; who uses etcd sees client.h.
//
// A member that refuses, is silent for the time of the options, or belongs to another cluster is left for the next one
// in turn, until the deadline. Which calls are made again says CallKind.
//
// Thread-safety: all methods. Lifetime: outlives the calls, and what Connect gave out.
#ifndef KVLINK_ETCD_CLUSTER_CHANNEL_H_
#define KVLINK_ETCD_CLUSTER_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
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
  kRead,          // sees what was written before; made again elsewhere
  kSerializable,  // of one member, even one that is cut off; made again elsewhere
  kRepeatable,    // changes something, and may do so twice; made again elsewhere
  // Once: when a member has shown just before that it reaches the others. What may have arrived and was not answered is
  // UNKNOWN.
  kWrite,
};

// One member, as the endpoints name it.
struct Endpoint {
  std::string address;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<etcdserverpb::KV::Stub> kv;
  std::unique_ptr<etcdserverpb::Watch::Stub> watch;
  std::unique_ptr<etcdserverpb::Lease::Stub> lease;
  std::unique_ptr<etcdserverpb::Auth::Stub> auth;
};

class ClusterChannel {
 public:
  // Makes one attempt at `endpoint` and fills `header` from the answer.
  using Rpc = std::function<grpc::Status(const Endpoint& endpoint, grpc::ClientContext* context,
                                         etcdserverpb::ResponseHeader* header)>;

  // INVALID_ARGUMENT, FAILED_PRECONDITION: as Client::Open.
  static absl::StatusOr<std::unique_ptr<ClusterChannel>> Open(const ClientOptions& options);

  // `cancellation` may be null. Errors: as those common to all of Client; etcd's own, with the address before;
  // CANCELLED.
  absl::Status Call(CallKind kind, absl::Time deadline, Cancellation* cancellation, const Rpc& rpc);

  // A member that has just shown that it reaches the others, for a stream. Errors as Call.
  absl::StatusOr<const Endpoint*> Connect(absl::Time deadline, Cancellation* cancellation);
  // For a stream to that member: without a deadline; etcd ends it when the member loses its leader. Returns the token
  // that it goes with; empty: none.
  std::string PrepareStream(grpc::ClientContext* context);
  // FAILED_PRECONDITION: the answer is of another cluster.
  absl::Status CheckCluster(const Endpoint& endpoint, const etcdserverpb::ResponseHeader& header);
  // Calls begin with the next member, if they still would with this one.
  void Leave(const Endpoint& endpoint);
  // This token is not accepted any more: the next call asks for another, unless somebody has one already.
  void DropToken(const std::string& refused);
  // Some answer had this revision: later ones that see what was written may not be older.
  void Saw(int64_t revision);

  const ClientOptions& options() const { return options_; }

 private:
  // What came of one attempt.
  struct Outcome {
    absl::Status status;
    bool final = true;         // the answer; otherwise another member is asked
    bool renew_token = false;  // the same is asked again with another token
    std::string token;         // that was used
  };

  explicit ClusterChannel(const ClientOptions& options) : options_(options) {}
  Outcome Try(CallKind kind, size_t number, absl::Time deadline, Cancellation* cancellation, const Rpc& rpc);
  Outcome TryOnce(CallKind kind, size_t number, absl::Time deadline, Cancellation* cancellation, const Rpc& rpc);
  Outcome Judge(CallKind kind, const Endpoint& endpoint, const grpc::Status& status,
                const etcdserverpb::ResponseHeader& header, int64_t floor);
  absl::Status AwaitConnection(const Endpoint& endpoint, absl::Time deadline, Cancellation* cancellation);
  // Sets `token`; empty: authentication is off.
  Outcome Authenticate(const Endpoint& endpoint, absl::Time deadline, Cancellation* cancellation, std::string* token);
  // Asks for nothing, so that the member has to ask the others.
  grpc::Status Ask(const Endpoint& endpoint, grpc::ClientContext* context, etcdserverpb::ResponseHeader* header) const;
  absl::Status GaveUp(const std::vector<absl::Status>& failures) const;

  const ClientOptions options_;
  std::vector<Endpoint> endpoints_;

  Mutex mutex_;
  size_t current_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string token_ ABSL_GUARDED_BY(mutex_);
  bool open_to_all_ ABSL_GUARDED_BY(mutex_) = false;  // authentication is off
  std::optional<uint64_t> cluster_ ABSL_GUARDED_BY(mutex_);
  int64_t revision_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<absl::Time> confirmed_ ABSL_GUARDED_BY(mutex_);  // when each endpoint last reached the others
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_CLUSTER_CHANNEL_H_
