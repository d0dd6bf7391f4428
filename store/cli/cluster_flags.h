// The options by which commands find a cluster. Thread-safety: one thread at a time.
#ifndef KVLINK_STORE_CLI_CLUSTER_FLAGS_H_
#define KVLINK_STORE_CLI_CLUSTER_FLAGS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/cli/args.h"
#include "store/cluster/members/connection.h"
#include "transport/tls.h"

namespace kvlink::cli {

struct ClusterFlags {
  ClusterFlags();         // the defaults, from the environment
  std::string cluster;    // HOST:PORT[,HOST:PORT...][/NAME]; after etcd:// in $KVLINK_STORE. Empty: none was named
  std::string etcd_user;  // $KVLINK_ETCD_USER
  std::string etcd_password_file;  // $KVLINK_ETCD_PASSWORD_FILE
  transport::TlsOptions etcd_tls;  // for connections to etcd; ca_file: $KVLINK_ETCD_CA
};

// --cluster, --etcd-user, --etcd-password-file, --etcd-ca, --etcd-cert, --etcd-key and --etcd-insecure.
void AddClusterFlags(Arguments& arguments, ClusterFlags& flags);
// Whether $KVLINK_STORE, or a value in its place, names a cluster: "etcd://HOST:PORT[,...][/NAME]".
bool IsCluster(absl::string_view store);
// Returns the cluster's address and the credentials for it. INVALID_ARGUMENT: no cluster was named, or --cluster is
// malformed; errors of ReadSecretFile.
absl::StatusOr<store::cluster::ClusterAddress> ClusterAddressOf(const ClusterFlags& flags);

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_CLUSTER_FLAGS_H_
