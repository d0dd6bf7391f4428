// The PEM files of a TlsOptions, followed as they are replaced. New contents count once two looks in a row have found
// them and they have been checked: every certificate and the key can be read, and the key belongs to the certificate.
// Until then the last good ones count, so that files may be replaced one after the other, and be written in pieces less
// than a second apart.
//
// A thread of each set of files, `tls-files`, looks at them every second. It alone reads them once they have been
// named, so that a file system that hangs holds up nobody who connects, nor the end of anything. Who names them first
// reads them, so a process names its files when it starts. Contents are compared, not times, since files behind
// symbolic links change without them.
//
// Thread-safety: all methods.
#ifndef KVLINK_TRANSPORT_GRPC_TLS_FILES_H_
#define KVLINK_TRANSPORT_GRPC_TLS_FILES_H_

#include <grpcpp/security/credentials.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "transport/grpc/credentials.h"
#include "transport/tls.h"

namespace kvlink::transport {

struct Pem {
  std::string ca, certificate, key;  // empty: no such file is named
  bool operator==(const Pem& other) const = default;
};

class TlsFiles {
 public:
  // The files that `options` names, which must be enabled. Reads them if they are named for the first time. They are
  // kept, and followed, until the process ends, once for each set of names: gRPC's threads ask as long as there are
  // servers. INVALID_ARGUMENT: the files cannot be used, and never could; names the file.
  static absl::StatusOr<TlsFiles*> Of(const TlsOptions& options);
  // Every set of files so far.
  static std::vector<TlsFiles*> All();

  // What counts; the same object until it changes.
  std::shared_ptr<const Pem> Current() const;
  // Credentials made of it, the same object until it changes, as long as anybody has it. REQUIRES: there is a CA
  // certificate.
  std::shared_ptr<grpc::ChannelCredentials> Client();
  // As of `now`, a time of SteadyNow().
  TlsState State(absl::Time now) const;

 private:
  TlsFiles(const TlsOptions& options, std::shared_ptr<const Pem> pem) : options_(options), pem_(std::move(pem)) {}
  void Look();

  const TlsOptions options_;
  std::optional<Pem> found_;  // by the latest look, if it does not count; only for the thread
  mutable Mutex mutex_;
  std::shared_ptr<const Pem> pem_ ABSL_GUARDED_BY(mutex_);
  std::weak_ptr<grpc::ChannelCredentials> client_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);                                // why what the files hold does not count
  absl::Time reading_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // of a look; infinite: there is none
  int64_t replaced_ ABSL_GUARDED_BY(mutex_) = 0;
  Thread looker_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_GRPC_TLS_FILES_H_
