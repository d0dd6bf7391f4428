// Where a cluster is found, and the way to it: a client of its etcd, in whose place another comes when etcd went back
// to an older state or is another one.
//
// Thread-safety: Connection: all methods. Lifetime: whoever holds a client by its pointer may go on with it.
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
  etcd::ClientOptions etcd;  // its prefix is not used: the keys of clusters begin with kKeyPrefix
  std::string name = "default";
};
// "HOST:PORT[,HOST:PORT...][/NAME]" into endpoints and name. INVALID_ARGUMENT, saying how it is written.
absl::StatusOr<ClusterAddress> ParseClusterAddress(absl::string_view text);

// What happens to a cluster's member or client, for a log. Called on threads of this folder; must not call it back.
enum class Severity { kInfo, kWarning, kError };
using EventSink = std::function<void(Severity severity, absl::string_view event, absl::string_view what)>;

class Connection {
 public:
  // Connects with the first call. Errors as etcd::Client::Open.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const ClusterAddress& address);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const std::string& cluster() const { return address_.name; }
  // "HOST:PORT,.../NAME", for messages.
  std::string ToString() const;
  // Never null.
  std::shared_ptr<etcd::Client> client() const;
  // After an error that `used` does not recover from (NeedsAnotherClient): opens another client, unless somebody did.
  // Errors as Open, and the client stays.
  absl::Status Renew(const std::shared_ptr<etcd::Client>& used);

 private:
  Connection(ClusterAddress address, std::shared_ptr<etcd::Client> client);

  const ClusterAddress address_;
  mutable Mutex mutex_;
  std::shared_ptr<etcd::Client> client_ ABSL_GUARDED_BY(mutex_);
};

// etcd is at an older revision than it was, or is another etcd.
bool NeedsAnotherClient(const absl::Status& status);

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_MEMBERS_CONNECTION_H_
