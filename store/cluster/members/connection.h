// The address of a cluster, and a connection to it: a client of its etcd, which Renew() replaces after etcd went back
// to an older state or was replaced by another etcd.
//
// Thread-safety: Connection: all methods. Lifetime: callers may keep using a client that was replaced, since they share
// its ownership.
#ifndef KVLINK_STORE_CLUSTER_MEMBERS_CONNECTION_H_
#define KVLINK_STORE_CLUSTER_MEMBERS_CONNECTION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "etcd/client.h"

namespace kvlink::store::cluster {

struct ClusterAddress {
  etcd::ClientOptions etcd;  // its prefix is ignored: the keys of clusters begin with kKeyPrefix
  std::string name = "default";
};
// Parses "HOST:PORT[,HOST:PORT...][/NAME]". INVALID_ARGUMENT, with a message that gives this form.
absl::StatusOr<ClusterAddress> ParseClusterAddress(absl::string_view text);

// Receives events of a cluster's member or client, for a log. Called on threads of this folder; must not call back into
// it.
enum class Severity { kInfo, kWarning, kError };
using EventSink = std::function<void(Severity severity, absl::string_view event, absl::string_view what)>;

class Connection {
 public:
  // Does not connect; the first call does. Errors of etcd::Client::Open.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const ClusterAddress& address);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const std::string& cluster() const { return address_.name; }
  // "HOST:PORT,.../NAME", for messages.
  std::string ToString() const;
  // Never null.
  std::shared_ptr<etcd::Client> client() const;
  // Call after an error that `used` does not recover from (NeedsAnotherClient): opens another client, unless another
  // caller has done so. Errors of Open, with the client unchanged.
  absl::Status Renew(const std::shared_ptr<etcd::Client>& used);

 private:
  Connection(ClusterAddress address, std::shared_ptr<etcd::Client> client);

  const ClusterAddress address_;
  mutable Mutex mutex_;
  std::shared_ptr<etcd::Client> client_ ABSL_GUARDED_BY(mutex_);
};

// Whether the error says that etcd is at an older revision than before, or is another etcd.
bool NeedsAnotherClient(const absl::Status& status);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_CONNECTION_H_
