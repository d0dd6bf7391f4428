#include "store/cli/place.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/descriptor.h"
#include "base/status.h"
#include "store/client/remote.h"
#include "store/embedded/embedded.h"

namespace kvlink::cli {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

constexpr size_t kMinSecretBytes = 16;
constexpr size_t kMaxSecretBytes = 4096;

absl::StatusOr<std::string> ReadSecret(const std::string& path) {
  // Without waiting: a pipe is opened at once, and refused.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info = {};
  if (file.get() < 0 || fstat(file.get(), &info) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  if ((info.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": others may read or write it; use chmod o-rw on it"));
  }
  std::string secret(kMaxSecretBytes + 2, '\0');  // a newline, and one byte that shows there is more
  size_t size = 0;
  while (size < secret.size()) {
    const ssize_t n = read(file.get(), secret.data() + size, secret.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, path);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  secret.resize(size);
  if (!secret.empty() && secret.back() == '\n') secret.pop_back();
  if (secret.size() >= kMinSecretBytes && secret.size() <= kMaxSecretBytes) return secret;
  return absl::InvalidArgumentError(absl::StrCat(path, ": a secret has ", kMinSecretBytes, " to ", kMaxSecretBytes,
                                                 " bytes, this one has ",
                                                 secret.size() > kMaxSecretBytes ? "more" : "fewer"));
}

}  // namespace

absl::StatusOr<std::string> TenantSecret(const Arguments& arguments, const StoreFlags& flags) {
  if (!arguments.given("secret-file")) return std::string();
  auto secret = ReadSecret(flags.secret_file);
  KVLINK_RETURN_IF_ERROR(Annotate(secret.status(), "option --secret-file"));
  return secret;
}

StoreFlags::StoreFlags() : store(Environment("KVLINK_STORE")), key_file(Environment("KVLINK_KEY_FILE")) {
  if (!store.empty()) return;
  const std::string data = Environment("XDG_DATA_HOME");
  const std::string home = Environment("HOME");
  store = !data.empty() ? data + "/kvlink" : !home.empty() ? home + "/.local/share/kvlink" : "kvlink-store";
}

void AddPlaceFlags(Arguments& arguments, StoreFlags& flags) {
  arguments.Text("store", "DIR|HOST:PORT",
                 "The store: a directory, which one process at a time may use, or a node (kvlink store).",
                 &flags.store);
  arguments.Text("key-file", "FILE", "This client's key on the node, 16 to 4096 bytes that others may not read.",
                 &flags.key_file);
}

void AddStoreFlags(Arguments& arguments, StoreFlags& flags) {
  AddPlaceFlags(arguments, flags);
  arguments.Text("namespace", "NAME", "Namespace of the documents and encodings; namespaces share nothing.", &flags.ns);
  arguments.Choice("codec", {"raw-bf16", "raw-f32", "q8", "q4"},
                   "How keys and values are stored: as computed, or in 8 or 4 bits a number.", &flags.codec);
  arguments.Bytes("memory", "Most memory for encodings.", &flags.memory);
  arguments.Bytes("capacity",
                  "Most disk space for encodings, where the store is a directory; beyond it those used least are "
                  "evicted. The store "
                  "remembers it; 0: as remembered, 64 GiB of a new store.",
                  &flags.capacity);
  arguments.Text("secret-file", "FILE", "The tenant's secret, 16 to 4096 bytes that others may not read; see above.",
                 &flags.secret_file);
  arguments.Choice(
      "carrier", {"auto", "mapped", "ucx", "grpc"},
      "How encodings come from a node: its memory mapped on the same host, UCX, or gRPC; auto: the first that "
      "works.",
      &flags.carrier);
}

bool IsNode(absl::string_view store) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(store, absl::MaxSplits(':', 1));
  const absl::string_view port = store.substr(store.find_last_of(':') + 1);
  int number = 0;
  return !parts.first.empty() && store.find('/') == absl::string_view::npos && port.size() < store.size() &&
         absl::SimpleAtoi(port, &number) && number > 0 && number < 65536;
}

absl::StatusOr<std::string> NodeKey(const StoreFlags& flags) {
  if (flags.key_file.empty()) return std::string();
  auto key = ReadSecret(flags.key_file);
  KVLINK_RETURN_IF_ERROR(Annotate(key.status(), "option --key-file"));
  return key;
}

absl::Status HintAtKey(const absl::Status& status) {
  if (!absl::IsUnauthenticated(status)) return status;
  return absl::UnauthenticatedError(absl::StrCat(status.message(), "; name one that is with --key-file"));
}

std::string ClientName() {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) host[0] = 0;
  return absl::StrCat("kvlink/", host, "/", getpid());
}

namespace {

absl::StatusOr<std::unique_ptr<store::Store>> OpenNode(const StoreFlags& flags) {
  store::RemoteOptions options;
  options.address = flags.store;
  options.landing_bytes = flags.memory;
  options.name = ClientName();
  KVLINK_ASSIGN_OR_RETURN(options.key, NodeKey(flags));
  KVLINK_ASSIGN_OR_RETURN(options.carrier, store::ParseCarrier(flags.carrier));
  auto opened = store::OpenRemote(options);
  KVLINK_RETURN_IF_ERROR(HintAtKey(opened.status()));
  return std::unique_ptr<store::Store>(*std::move(opened));
}

}  // namespace

absl::StatusOr<std::unique_ptr<store::Store>> OpenStore(const StoreFlags& flags, StoreUse use) {
  KVLINK_RETURN_IF_ERROR(Annotate(store::ValidateName("namespace", flags.ns), "option --namespace"));
  if (IsNode(flags.store)) return OpenNode(flags);
  store::EmbeddedOptions options;
  options.create = use == StoreUse::kCreate;
  options.dram_bytes = flags.memory;
  options.capacity_bytes = flags.capacity;
  options.read_only = use == StoreUse::kReadOnly;
  auto opened = store::OpenEmbedded(flags.store, options);
  if (absl::IsNotFound(opened.status())) {
    return absl::NotFoundError(
        absl::StrCat(flags.store, ": no store here; name one with --store, or make one with kvlink ingest"));
  }
  return opened;
}

}  // namespace kvlink::cli
