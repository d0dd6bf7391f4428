#include "store/cli/place.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/cli/cluster_store.h"
#include "store/cli/secret_file.h"
#include "store/client/reachable.h"
#include "store/client/remote.h"
#include "store/embedded/embedded.h"

namespace kvlink::cli {

absl::StatusOr<std::string> TenantSecret(const Arguments& arguments, const StoreFlags& flags) {
  if (!arguments.given("secret-file")) return std::string();
  auto secret = ReadSecretFile(flags.secret_file, kMinSecretBytes, kMaxSecretBytes);
  KVLINK_RETURN_IF_ERROR(Annotate(secret.status(), "option --secret-file"));
  return secret;
}

StoreFlags::StoreFlags()
    : store(Environment("KVLINK_STORE")), key_file(Environment("KVLINK_KEY_FILE")), zone(Environment("KVLINK_ZONE")) {
  if (IsCluster(store)) store.clear();
  default_cluster = cluster.cluster;
  if (store.empty() && default_cluster.empty()) {
    const std::string data = Environment("XDG_DATA_HOME");
    const std::string home = Environment("HOME");
    store = !data.empty() ? data + "/kvlink" : !home.empty() ? home + "/.local/share/kvlink" : "kvlink-store";
  }
  default_store = store;
}

absl::StatusOr<PlaceKind> PlaceOf(const StoreFlags& flags) {
  const bool store_given = flags.store != flags.default_store;
  const bool cluster_given = flags.cluster.cluster != flags.default_cluster;
  if (store_given && cluster_given) {
    return absl::InvalidArgumentError(
        "--store and --cluster cannot be combined: a store is in a directory, on one node, or in a cluster");
  }
  if (cluster_given || (!store_given && !flags.cluster.cluster.empty())) return PlaceKind::kCluster;
  KVLINK_ASSIGN_OR_RETURN(const bool node, IsNode(flags.store));
  return node ? PlaceKind::kNode : PlaceKind::kDirectory;
}

std::string PlaceName(const StoreFlags& flags) {
  const auto place = PlaceOf(flags);
  return place.ok() && *place == PlaceKind::kCluster ? absl::StrCat("cluster ", flags.cluster.cluster) : flags.store;
}

namespace {

void AddIdentityFlags(Arguments& arguments, StoreFlags& flags) {
  arguments.Text("key-file", "FILE",
                 "File with this client's key for the node, 16 to 4096 bytes. Other users must not have access to it.",
                 &flags.key_file);
  arguments.Text("tls-ca", "FILE", "CA certificates (PEM) to verify the node's certificate.", &flags.tls.ca_file);
  arguments.Text("tls-cert", "FILE", "This client's certificate (PEM), if the node requires one.",
                 &flags.tls.certificate_file);
  arguments.Text("tls-key", "FILE", "Private key (PEM) for --tls-cert.", &flags.tls.key_file);
  arguments.Flag("insecure", "Allow sending the key in plain text to another host.", &flags.tls.insecure);
}

}  // namespace

void AddPlaceFlags(Arguments& arguments, StoreFlags& flags) {
  arguments.Text("store", "DIR|HOST:PORT",
                 "The store: a directory, used by one process at a time, or a node (see kvlink store).", &flags.store);
  AddClusterFlags(arguments, flags.cluster);
  AddIdentityFlags(arguments, flags);
  arguments.Integer("wait", "SECONDS",
                    "How long to wait for a directory that another process is using; in kvlink delete, for the nodes "
                    "of a cluster to remove what was deleted.",
                    0, 86400, &flags.wait);
}

void AddNodeFlags(Arguments& arguments, StoreFlags& flags) {
  // These commands do not default to a directory from the environment.
  if (const auto node = IsNode(flags.store); !node.ok() || !*node) flags.store.clear();
  flags.default_store = flags.store;
  arguments.Text("store", "HOST:PORT", "Address of the node (see kvlink store).", &flags.store);
  AddIdentityFlags(arguments, flags);
}

void AddStoreFlags(Arguments& arguments, StoreFlags& flags) {
  AddPlaceFlags(arguments, flags);
  arguments.Text("namespace", "NAME", "Namespace of the documents and encodings; namespaces share nothing.", &flags.ns);
  arguments.Choice("codec", {"raw-bf16", "raw-f32", "q8", "q4"},
                   "How keys and values are stored: as computed, or with 8 or 4 bits per number.", &flags.codec);
  arguments.Bytes("memory", "Maximum memory for encodings.", &flags.memory);
  arguments.Bytes("capacity",
                  "Maximum disk space for encodings, if the store is a directory; beyond it, the least used are "
                  "evicted. The store remembers this limit; 0: keep it (64 GiB for a new store).",
                  &flags.capacity);
  arguments.Text("secret-file", "FILE",
                 "File with the tenant's secret, 16 to 4096 bytes; see above. Other users must not have access to it.",
                 &flags.secret_file);
  arguments.Choice("carrier", {"auto", "mapped", "ucx", "grpc"},
                   "How encodings are read from a node: by mapping its memory (same host only), over UCX, or over "
                   "gRPC; auto: the first that works.",
                   &flags.carrier);
  arguments.Text("zone", "NAME", "Zone of this process; in a cluster, nodes in the same zone are asked first.",
                 &flags.zone);
}

absl::StatusOr<bool> IsNode(absl::string_view store) {
  const auto refuse = [store](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("option --store: '", store,
                                                   "' looks like the address of a node, but ", why,
                                                   "; write HOST:PORT for a node, ./NAME for a directory"));
  };
  if (store.empty()) return absl::InvalidArgumentError("no store; name one with --store or KVLINK_STORE");
  if (absl::StrContains(store, "://")) return refuse("it has a scheme");
  if (absl::StrContains(store, '/')) return false;
  if (absl::StartsWith(store, "[") && absl::EndsWith(store, "]")) return refuse("it has no port");
  const size_t colon = store.find_last_of(':');
  const absl::string_view host = store.substr(0, colon);
  const bool numeric =
      absl::c_count(host, '.') == 3 && host.find_first_not_of("0123456789.") == absl::string_view::npos;
  if (colon == absl::string_view::npos) {
    if (numeric || absl::EqualsIgnoreCase(host, "localhost")) return refuse("it has no port");
    return false;
  }
  const absl::string_view port = store.substr(colon + 1);
  if (port.find_first_not_of("0123456789") != absl::string_view::npos) {
    // "a:b" is a name; "localhost:http" and "10.0.0.1:x" are not.
    return numeric || absl::EqualsIgnoreCase(host, "localhost") ? refuse("its port is not a number")
                                                                : absl::StatusOr<bool>(false);
  }
  int number = 0;
  if (host.empty()) return refuse("it has no host");
  if (absl::StrContains(host, ':') && !(absl::StartsWith(host, "[") && absl::EndsWith(host, "]"))) {
    return refuse(absl::StrCat("an IPv6 address needs brackets: write [", host, "]:", port));
  }
  if (!absl::SimpleAtoi(port, &number) || number < 1 || number > 65535)
    return refuse("its port is not between 1 and 65535");
  return true;
}

absl::StatusOr<std::unique_ptr<store::client::NodeAdmin>> OpenAdmin(const StoreFlags& flags) {
  if (flags.store.empty()) {
    return absl::InvalidArgumentError("no node; name one with --store HOST:PORT or KVLINK_STORE");
  }
  KVLINK_ASSIGN_OR_RETURN(const bool node, IsNode(flags.store));
  if (!node) {
    return absl::InvalidArgumentError(absl::StrCat(
        "option --store: ", flags.store, " is not the HOST:PORT of a node; for a directory, use kvlink inspect store"));
  }
  KVLINK_ASSIGN_OR_RETURN(const std::string key, NodeKey(flags));
  constexpr absl::Duration kApproach = absl::Seconds(5);
  KVLINK_RETURN_IF_ERROR(store::client::CheckReachable(flags.store, SteadyNow() + kApproach));
  return store::client::NodeAdmin::Create({flags.store, key, ClientName(), flags.tls});
}

absl::StatusOr<std::string> NodeKey(const StoreFlags& flags) {
  if (flags.key_file.empty()) return std::string();
  auto key = ReadSecretFile(flags.key_file, kMinSecretBytes, kMaxSecretBytes);
  KVLINK_RETURN_IF_ERROR(Annotate(key.status(), "option --key-file"));
  return key;
}

absl::Status HintAtKey(const absl::Status& status) {
  if (!absl::IsUnauthenticated(status)) return status;
  return absl::UnauthenticatedError(absl::StrCat(status.message(), "; name the right key with --key-file"));
}

std::string ClientName() {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) host[0] = 0;
  return absl::StrCat("kvlink/", host, "/", getpid());
}

int64_t SendingBytes(const StoreFlags& flags) {
  return std::max(store::client::RemoteOptions().sending_bytes, flags.memory / 4);
}

namespace {

absl::StatusOr<std::unique_ptr<store::Store>> OpenNode(const StoreFlags& flags) {
  store::client::RemoteOptions options;
  options.address = flags.store;
  options.receive_bytes = flags.memory;
  options.sending_bytes = SendingBytes(flags);
  options.name = ClientName();
  options.tls = flags.tls;
  KVLINK_ASSIGN_OR_RETURN(options.key, NodeKey(flags));
  KVLINK_ASSIGN_OR_RETURN(options.carrier, store::client::ParseCarrier(flags.carrier));
  auto opened = store::client::OpenRemote(options);
  KVLINK_RETURN_IF_ERROR(HintAtKey(opened.status()));
  return std::unique_ptr<store::Store>(*std::move(opened));
}

// Retries for up to `wait` while another process holds the directory.
absl::StatusOr<std::unique_ptr<store::Store>> OpenWaiting(const std::string& directory,
                                                          const store::EmbeddedOptions& options, absl::Duration wait) {
  const absl::Time until = SteadyNow() + wait;
  for (;;) {
    auto opened = store::OpenEmbedded(directory, options);
    if (!absl::IsUnavailable(opened.status()) || SteadyNow() >= until) return opened;
    absl::SleepFor(absl::Milliseconds(100));
  }
}

// Advice for a directory that could not be opened.
absl::string_view HintOf(const absl::Status& status) {
  // Errors with other causes, such as a lack of descriptors, already contain advice.
  if (absl::IsUnavailable(status) && absl::StrContains(status.message(), "in use by process"))
    return "wait for it with --wait SECONDS, or share it with kvlink store";
  if (absl::IsPermissionDenied(status)) return "ask its owner, who may share it with kvlink store";
  return "";
}

}  // namespace

absl::Status CheckMemory(int64_t bytes) {
  constexpr int64_t kMinBytes = int64_t{1} << 20;
  const int64_t host = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  if (bytes >= kMinBytes && (host <= 0 || bytes <= host)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("option --memory: ", FormatBytes(static_cast<double>(bytes)),
                                                 " is not between 1 MiB and the ",
                                                 FormatBytes(static_cast<double>(host)), " of memory on this host"));
}

absl::StatusOr<OpenedStore> OpenStore(const StoreFlags& flags, StoreUse use) {
  KVLINK_RETURN_IF_ERROR(Annotate(store::ValidateName("namespace", flags.ns), "option --namespace"));
  KVLINK_RETURN_IF_ERROR(CheckMemory(flags.memory));
  KVLINK_ASSIGN_OR_RETURN(const PlaceKind place, PlaceOf(flags));
  OpenedStore result;
  if (place == PlaceKind::kNode) {
    KVLINK_ASSIGN_OR_RETURN(result.store, OpenNode(flags));
    return result;
  }
  if (place == PlaceKind::kCluster) {
    KVLINK_ASSIGN_OR_RETURN(ClusterStore cluster, OpenClusterStore(flags));
    result.store = std::move(cluster.store);
    return result;
  }
  store::EmbeddedOptions options;
  options.create = use == StoreUse::kCreate;
  options.dram_bytes = flags.memory;
  options.capacity_bytes = flags.capacity;
  options.read_only = use == StoreUse::kReadOnly;
  options.drop_missing = flags.drop_missing;
  std::error_code error;
  const bool existed = std::filesystem::exists(flags.store + "/STORE", error);
  auto opened = OpenWaiting(flags.store, options, absl::Seconds(flags.wait));
  if (use == StoreUse::kReading && !opened.ok() && access(flags.store.c_str(), R_OK | X_OK) == 0 &&
      access(flags.store.c_str(), W_OK) != 0) {
    options.read_only = true;
    opened = OpenWaiting(flags.store, options, absl::Seconds(flags.wait));
  }
  if (!opened.ok()) {
    if (absl::IsNotFound(opened.status()) && !existed) {
      return absl::NotFoundError(
          absl::StrCat(flags.store, ": no store here; name one with --store, or create one with kvlink ingest"));
    }
    const absl::string_view hint = HintOf(opened.status());
    return absl::Status(opened.status().code(),
                        absl::StrCat(opened.status().message(), hint.empty() ? "" : "; ", hint));
  }
  result.store = *std::move(opened);
  result.created = use == StoreUse::kCreate && !existed;
  result.read_only = options.read_only;
  return result;
}

}  // namespace kvlink::cli
