// The PEM files of a TlsOptions, followed as they are replaced. New contents count once they have been checked: every
// certificate and the key can be read, and the key belongs to the certificate. Until then the last good ones count, so
// that files may be replaced one after the other, in any way.
//
// There is no thread: the files are looked at when somebody asks, at most once a second. Contents are compared, not
// times, since files behind symbolic links change without them.
//
// Thread-safety: all methods. Client and State may read files, without a lock.
#ifndef KVLINK_TRANSPORT_GRPC_TLS_FILES_H_
#define KVLINK_TRANSPORT_GRPC_TLS_FILES_H_

#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "transport/grpc/credentials.h"
#include "transport/tls.h"

namespace kvlink::transport {

struct Pem {
  std::string ca, certificate, key;  // empty: no such file is named
  bool operator==(const Pem& other) const = default;
};

class TlsFiles {
 public:
  // The files that `options` names, which must be enabled. They are kept until the process ends, once for each set of
  // names: gRPC's threads ask as long as there are servers. INVALID_ARGUMENT: the files cannot be used, and never
  // could; names the file.
  static absl::StatusOr<TlsFiles*> Of(const TlsOptions& options);
  // Every set of files so far.
  static std::vector<TlsFiles*> All();

  // What counts; the same object until it changes. Reads no files, since gRPC asks before each handshake, under a lock
  // that all handshakes of a port take. The next two look at the files first.
  std::shared_ptr<const Pem> Current() const;
  // Credentials made of it, the same object until it changes, as long as anybody has it. REQUIRES: there is a CA
  // certificate.
  std::shared_ptr<grpc::ChannelCredentials> Client();
  TlsState State();

 private:
  TlsFiles(const TlsOptions& options, std::shared_ptr<const Pem> pem);
  void Look();

  const TlsOptions options_;
  mutable Mutex mutex_;
  std::shared_ptr<const Pem> pem_ ABSL_GUARDED_BY(mutex_);
  std::weak_ptr<grpc::ChannelCredentials> client_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // why what the files hold does not count
  int64_t replaced_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time next_look_ ABSL_GUARDED_BY(mutex_);
  bool looking_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_TLS_FILES_H_
