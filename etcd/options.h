// Which etcd to use, and the user to log in as. Thread-safety: a plain value.
#ifndef KVLINK_ETCD_OPTIONS_H_
#define KVLINK_ETCD_OPTIONS_H_

#include <string>

#include "absl/time/time.h"
#include "transport/tls.h"

namespace kvlink::etcd {

struct ClientOptions {
  std::string endpoints;  // "host:port[,host:port...]": all or some members of one cluster
  // ca_file: the authority that signed the members' certificates. certificate_file and key_file: needed if the members
  // require client certificates. insecure: allows a password to travel in plain text to another host.
  transport::TlsOptions tls;
  std::string user, password;  // both empty: no authentication
  // Prepended to every key sent to etcd and stripped from every key received, so that two clusters can share one etcd.
  // Usually ends with a slash.
  std::string prefix;

  // How long a member may take to accept a connection, and to answer, before another one is asked.
  absl::Duration connect_timeout = absl::Seconds(1);
  absl::Duration answer_timeout = absl::Seconds(2);
  // After this much silence on a watch, the member is asked for its progress.
  absl::Duration progress_interval = absl::Seconds(5);
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_OPTIONS_H_
