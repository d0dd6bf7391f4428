// How connections over gRPC are secured: files in PEM, read when a node or a client starts.
// Thread-safety: a plain value.
#ifndef KVLINK_TRANSPORT_TLS_H_
#define KVLINK_TRANSPORT_TLS_H_

#include <string>

namespace kvlink::transport {

// All empty: plain text. A node needs certificate_file and key_file; with ca_file it also demands a certificate of that
// authority from every client. A client needs ca_file, and certificate_file and key_file where the node demands them.
struct TlsOptions {
  std::string ca_file, certificate_file, key_file;
  // Lets keys of an access file travel in plain text beyond this host.
  bool insecure = false;

  bool enabled() const { return !ca_file.empty() || !certificate_file.empty() || !key_file.empty(); }
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_TLS_H_
