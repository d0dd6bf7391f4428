// Which etcd, and as whom. Thread-safety: a plain value.
#ifndef KVLINK_ETCD_OPTIONS_H_
#define KVLINK_ETCD_OPTIONS_H_

#include <string>

#include "absl/time/time.h"
#include "transport/tls.h"

namespace kvlink::etcd {

struct ClientOptions {
  std::string endpoints;  // "host:port[,host:port...]": members of one cluster, all of them or some
  // ca_file: of the authority that signed the members' certificates. certificate_file and key_file: where the members
  // demand them. insecure: a password may travel in plain text beyond this host.
  transport::TlsOptions tls;
  std::string user, password;  // both empty: none
  // Put before every key on the way to etcd and taken away on the way back, so that two clusters may share an etcd.
  // Usually ends with a slash.
  std::string prefix;

  // How long a member may take to accept a connection, and to answer, before another is asked.
  absl::Duration connect_timeout = absl::Seconds(1);
  absl::Duration answer_timeout = absl::Seconds(2);
  // After so much silence of a watch its member is asked how far it is.
  absl::Duration progress_interval = absl::Seconds(5);
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_OPTIONS_H_
