// How connections over gRPC are secured: PEM files, which are followed as they are replaced (grpc/credentials.h).
// Thread-safety: a plain value.
#ifndef KVLINK_TRANSPORT_TLS_H_
#define KVLINK_TRANSPORT_TLS_H_

#include <string>

namespace kvlink::transport {

// All empty: plain text. A node needs certificate_file and key_file; with ca_file it also requires every client to
// present a certificate signed by that authority. A client needs ca_file, plus certificate_file and key_file if the
// node requires them.
struct TlsOptions {
  std::string ca_file, certificate_file, key_file;
  // Allows access keys to travel in plain text to another host.
  bool insecure = false;

  bool enabled() const { return !ca_file.empty() || !certificate_file.empty() || !key_file.empty(); }
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_TLS_H_
