// gRPC reports files that it cannot use only when a connection fails, and without their names; it takes a key that does
// not belong to the certificate, and then accepts no connection. (Its FileWatcherCertificateProvider 1.51 does so with
// files that are replaced one after the other, and gives a new channel nothing if a file cannot be read.) So they are
// checked here, by the functions with which gRPC itself parses them.
#include "transport/grpc/tls_files.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "base/status.h"

namespace kvlink::transport {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr absl::Duration kBetweenLooks = absl::Seconds(1);
constexpr absl::Duration kHangs = absl::Seconds(30);  // a look that has taken this long

// When a program ends, OpenSSL would clean up by a handler of exit(), under gRPC's threads, which may be connecting and
// would then crash. The first to initialise OpenSSL decides, so this comes before main().
[[maybe_unused]] const int no_cleanup_at_exit = OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

Owned<BIO> Reader(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// OpenSSL would ask for it at the terminal.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) { return 0; }

std::string LastError() {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return reason == nullptr ? "OpenSSL names no reason" : reason;
}

absl::StatusOr<std::string> ReadPem(const char* what, const std::string& path) {
  const auto unreadable = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read the TLS ", what, " ", path, ": ", std::strerror(errno)));
  };
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return unreadable();
  std::string text;
  char block[16 << 10];
  while (const ssize_t got = read(file.get(), block, sizeof(block))) {
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return unreadable();
    text.append(block, static_cast<size_t>(got));
    if (text.size() > kMaxFileBytes) {
      return absl::InvalidArgumentError(absl::StrCat("the TLS ", what, " ", path, " has more than 1 MiB"));
    }
  }
  if (!absl::StrContains(text, "-----BEGIN ")) {
    return absl::InvalidArgumentError(absl::StrCat("the TLS ", what, " ", path, " is not in PEM format"));
  }
  return text;
}

absl::StatusOr<Pem> Read(const TlsOptions& options) {
  if (options.certificate_file.empty() != options.key_file.empty()) {
    return absl::InvalidArgumentError("a TLS certificate and its key must be given together");
  }
  Pem pem;
  if (!options.ca_file.empty()) {
    KVLINK_ASSIGN_OR_RETURN(pem.ca, ReadPem("CA certificate", options.ca_file));
  }
  if (!options.certificate_file.empty()) {
    KVLINK_ASSIGN_OR_RETURN(pem.certificate, ReadPem("certificate", options.certificate_file));
    KVLINK_ASSIGN_OR_RETURN(pem.key, ReadPem("key", options.key_file));
  }
  return pem;
}

// Reads all certificates, and returns the first.
absl::StatusOr<Owned<X509>> Parse(const char* what, const std::string& path, const std::string& text) {
  const Owned<BIO> reader = Reader(text);
  Owned<X509> first;
  ERR_clear_error();
  while (Owned<X509> one{PEM_read_bio_X509_AUX(reader.get(), nullptr, NoPassphrase, nullptr)}) {
    if (first == nullptr) first = std::move(one);
  }
  const auto error = ERR_peek_last_error();
  ERR_clear_error();
  const bool at_end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
  if (first == nullptr || !at_end) {
    return absl::InvalidArgumentError(
        absl::StrCat("the TLS ", what, " ", path, " holds no certificate, or a damaged one"));
  }
  return first;
}

absl::Status Check(const TlsOptions& options, const Pem& pem) {
  if (!pem.ca.empty()) KVLINK_RETURN_IF_ERROR(Parse("CA certificate", options.ca_file, pem.ca).status());
  if (pem.certificate.empty()) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(const Owned<X509> certificate,
                          Parse("certificate", options.certificate_file, pem.certificate));
  const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(Reader(pem.key).get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        absl::StrCat("the TLS key ", options.key_file, " is no private key, is damaged, or has a passphrase"));
  }
  const Owned<SSL_CTX> context(SSL_CTX_new(TLS_method()));
  if (SSL_CTX_use_certificate(context.get(), certificate.get()) != 1) {  // too weak
    return absl::InvalidArgumentError(
        absl::StrCat("the TLS certificate ", options.certificate_file, " cannot be used: ", LastError()));
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("the TLS key ", options.key_file,
                                                   " does not belong to the certificate ", options.certificate_file,
                                                   ": ", LastError()));
  }
  return absl::OkStatus();
}

struct Registry {
  Mutex mutex;
  std::map<std::tuple<std::string, std::string, std::string>, std::unique_ptr<TlsFiles>> files ABSL_GUARDED_BY(mutex);
};

Registry& TheRegistry() {
  static Registry* const registry = new Registry;  // never destroyed: gRPC's threads outlive static objects
  return *registry;
}

}  // namespace

absl::StatusOr<TlsFiles*> TlsFiles::Of(const TlsOptions& options) {
  const auto names = std::make_tuple(options.ca_file, options.certificate_file, options.key_file);
  Registry& registry = TheRegistry();
  {
    MutexLock lock(&registry.mutex);
    if (const auto found = registry.files.find(names); found != registry.files.end()) return found->second.get();
  }
  KVLINK_ASSIGN_OR_RETURN(Pem pem, Read(options));
  KVLINK_RETURN_IF_ERROR(Check(options, pem));
  std::unique_ptr<TlsFiles> made(new TlsFiles(options, std::make_shared<const Pem>(std::move(pem))));
  MutexLock lock(&registry.mutex);
  const auto [kept, added] = registry.files.emplace(names, std::move(made));
  TlsFiles* const files = kept->second.get();
  if (added) {
    files->looker_ = Thread("tls-files", [files] {
      for (;;) {  // until the process ends
        absl::SleepFor(kBetweenLooks);
        files->Look();
      }
    });
  }
  return files;
}

std::vector<TlsFiles*> TlsFiles::All() {
  Registry& registry = TheRegistry();
  std::vector<TlsFiles*> all;
  MutexLock lock(&registry.mutex);
  for (const auto& [names, files] : registry.files) all.push_back(files.get());
  return all;
}

void TlsFiles::Look() {
  {
    MutexLock lock(&mutex_);
    reading_since_ = SteadyNow();
  }
  absl::StatusOr<Pem> found = Read(options_);
  const bool changed = found.ok() && *found != *Current();
  // Half of a bundle may be whole certificates: what differs from the look before is still being written.
  const bool settled = changed && found_ == *found;
  found_ = changed ? std::optional(*found) : std::nullopt;
  absl::Status status = settled ? Check(options_, *found) : found.status();
  MutexLock lock(&mutex_);
  reading_since_ = absl::InfiniteFuture();
  if (changed && !settled) return;
  status_ = std::move(status);
  if (!settled || !status_.ok()) return;
  pem_ = std::make_shared<const Pem>(*std::move(found));
  client_.reset();
  ++replaced_;
}

std::shared_ptr<const Pem> TlsFiles::Current() const {
  MutexLock lock(&mutex_);
  return pem_;
}

std::shared_ptr<grpc::ChannelCredentials> TlsFiles::Client() {
  MutexLock lock(&mutex_);
  auto client = client_.lock();
  if (client == nullptr) {
    client = grpc::SslCredentials({pem_->ca, pem_->key, pem_->certificate});
    client_ = client;
  }
  return client;
}

TlsState TlsFiles::State(absl::Time now) const {
  MutexLock lock(&mutex_);
  if (now - reading_since_ < kHangs) return {options_, replaced_, status_};
  return {options_, replaced_,
          absl::UnavailableError(absl::StrCat("reading them has taken more than ", absl::FormatDuration(kHangs),
                                              ": a file system hangs"))};
}

}  // namespace kvlink::transport
