// Which node, and as whom. Thread-safety: a plain value.
#ifndef KVLINK_STORE_CLIENT_CONTROL_OPTIONS_H_
#define KVLINK_STORE_CLIENT_CONTROL_OPTIONS_H_

#include <string>

#include "transport/tls.h"

namespace kvlink::store::client {

struct ControlOptions {
  std::string address;  // host:port of the node's gRPC service
  std::string key;      // of the node's access file; empty where the node has none
  std::string name;     // of this process, for the node's logs
  transport::TlsOptions tls;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_CONTROL_OPTIONS_H_
