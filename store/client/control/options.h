// Which node to connect to, and the key to use. Thread-safety: a plain value.
#ifndef KVLINK_STORE_CLIENT_CONTROL_OPTIONS_H_
#define KVLINK_STORE_CLIENT_CONTROL_OPTIONS_H_

#include <string>

#include "transport/tls.h"

namespace kvlink::store::client {

struct ControlOptions {
  std::string address;  // host:port of the node's gRPC service
  std::string key;      // from the node's access file; empty if the node has none
  std::string name;     // of this process, for the node's logs
  transport::TlsOptions tls;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_OPTIONS_H_
