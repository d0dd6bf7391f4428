// kvlink store: a node that serves a store.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/cli/args.h"
#include "base/cli/end_signals.h"
#include "base/cli/program.h"
#include "base/cli/reload.h"
#include "base/clock.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/cluster_flags.h"
#include "store/cli/cluster_store.h"
#include "store/cli/commands.h"
#include "store/cli/place.h"
#include "store/cli/secret_file.h"
#include "store/client/remote.h"
#include "store/cluster/node/member_node.h"
#include "store/cluster/node/upkeep.h"
#include "store/database/database.h"
#include "store/node/node.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kStoreSummary =
    "Serves the store in a directory to other processes and hosts, which use it with kvlink COMMAND\n"
    "--store HOST:PORT. Control (sessions, catalog, health) is gRPC on --listen; encodings travel over\n"
    "UCX (--data), over gRPC, or on the same host through shared memory (--socket).\n\n"
    "Without --access-file, everyone who can reach the node has full access, so it listens on this host\n"
    "only. Each line of that file is NAME KEY read|write|admin|repair NAMESPACE,NAMESPACE... (or *);\n"
    "'repair' is for the other members of a cluster. SIGHUP reloads the file. UCX does not protect\n"
    "against hostile hosts, so it listens beyond this host only if --data says so; open it to trusted\n"
    "hosts only.\n\n"
    "With --cluster, the node is a member of a cluster (see kvlink cluster create): it holds its share\n"
    "of the encodings, and clients find it through etcd. Its directory then belongs to that cluster.\n\n"
    "When ready, it prints one line of JSON with its addresses and whether it created the store. It logs\n"
    "to standard error, one JSON object per line. SIGTERM or SIGINT stops it after the work in progress\n"
    "has finished; a second signal stops it at once.";

// A node waits until the lease of the process before it ends, and for its companions.
constexpr absl::Duration kStartTimeout = absl::Minutes(2);

struct StoreCommandFlags {
  StoreFlags store;
  std::string listen = "127.0.0.1:7400";
  std::string data = "auto";
  std::string socket = "auto";
  std::string metrics;
  std::string access_file;
  int64_t scrub = int64_t{32} << 20;
  int64_t drain_seconds = 30;
  ClusterFlags cluster;
  std::string zone, advertise;
  int64_t weight = 0;
  std::string peer_key_file, peer_ca;
  int64_t repair = int64_t{256} << 20;
  int64_t hot = store::cluster::HotOptions().bytes_per_second;
};

absl::Status ParseStore(absl::Span<char* const> args, Arguments& arguments, StoreCommandFlags& flags) {
  arguments.Text("store", "DIR", "Directory of the store, created if it does not exist.", &flags.store.store);
  arguments.Text("listen", "HOST:PORT", "Address for gRPC; port 0 picks a free port.", &flags.listen);
  arguments.Text("data", "HOST:PORT|none|auto",
                 "Address for UCX, open to trusted hosts only; auto: a free port if --listen is 127.0.0.1 or "
                 "localhost, else none.",
                 &flags.data);
  arguments.Text("socket", "PATH|none|auto",
                 "Socket through which readers on this host map the memory tier; auto: run/socket in the store's "
                 "directory, for its owner only.",
                 &flags.socket);
  arguments.Text("metrics", "HOST:PORT", "Serve /metrics for Prometheus at this address (default: not served).",
                 &flags.metrics);
  arguments.Text("access-file", "FILE", "Keys and their rights; see above.", &flags.access_file);
  arguments.Text("tls-cert", "FILE", "The node's certificate (PEM), which turns on TLS for gRPC.",
                 &flags.store.tls.certificate_file);
  arguments.Text("tls-key", "FILE", "Private key (PEM) for --tls-cert.", &flags.store.tls.key_file);
  arguments.Text("tls-ca", "FILE", "Require client certificates signed by these CA certificates (PEM).",
                 &flags.store.tls.ca_file);
  arguments.Flag(
      "insecure",
      "Accept keys in plain text from other hosts, where the network is trusted or encrypted by other means.",
      &flags.store.tls.insecure);
  arguments.Bytes("memory", "Maximum memory for encodings.", &flags.store.memory);
  arguments.Bytes("capacity",
                  "Maximum disk space for encodings; beyond it, the least used are evicted. The store remembers this "
                  "limit; 0: keep it (64 GiB for a new store).",
                  &flags.store.capacity);
  arguments.Bytes("scrub", "Bytes per second to read back and check in the background; 0: none.", &flags.scrub);
  arguments.Integer("drain-seconds", "N", "How long to wait for the work in progress when stopping, in seconds.", 0,
                    86400, &flags.drain_seconds);
  // A cluster from the environment is for clients; a node joins only the one it is told to.
  flags.cluster.cluster.clear();
  AddClusterFlags(arguments, flags.cluster);
  arguments.Text("zone", "NAME", "When joining: failure domain of this node; copies are placed in different ones.",
                 &flags.zone);
  arguments.Integer("weight", "N",
                    "When joining: share of the encodings relative to other members; 0: --capacity in GiB.", 0,
                    store::cluster::kMaxWeight, &flags.weight);
  arguments.Text(
      "advertise", "HOST:PORT",
      "Address at which the rest of the cluster reaches --listen, if it is another one; port 0: the port of --listen.",
      &flags.advertise);
  arguments.Text("peer-key-file", "FILE",
                 "File with this node's key for the other members, whose access files must give it the right 'repair'.",
                 &flags.peer_key_file);
  arguments.Text("peer-ca", "FILE", "CA certificates (PEM) to verify the other members' certificates.", &flags.peer_ca);
  arguments.Bytes("repair", "Maximum bytes per second to copy from other members.", &flags.repair);
  arguments.Bytes("hot",
                  "Bytes per second of one encoding pulled from this node above which other members hold copies of it "
                  "for a while; 0: never.",
                  &flags.hot);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected operand '", arguments.operands()[0], "'; name the directory with --store"));
  }
  if (flags.repair < 1) return absl::InvalidArgumentError("option --repair: must be at least 1 byte per second");
  for (const char* option : {"zone", "weight", "advertise", "peer-key-file", "peer-ca", "repair", "hot"}) {
    if (arguments.given(option) && flags.cluster.cluster.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("option --", option, " requires --cluster"));
    }
  }
  KVLINK_RETURN_IF_ERROR(CheckMemory(flags.store.memory));
  KVLINK_ASSIGN_OR_RETURN(const bool node, IsNode(flags.store.store));
  if (node) {
    return absl::InvalidArgumentError(
        absl::StrCat("option --store: ", flags.store.store, " is the address of a node; name a directory"));
  }
  return absl::OkStatus();
}

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

bool IsLoopback(absl::string_view host) {
  return absl::StartsWith(host, "127.") || host == "localhost" || host == "[::1]";
}

store::node::NodeOptions OptionsOf(const StoreCommandFlags& flags) {
  store::node::NodeOptions options;
  options.directory = flags.store.store;
  options.engine.dram_bytes = flags.store.memory;
  options.engine.capacity_bytes = flags.store.capacity;
  options.engine.scrub_bytes_per_second = flags.scrub;
  options.engine.share_memory = flags.socket != "none";
  options.control_address = flags.listen;
  if (flags.data == "auto") {
    if (IsLoopback(HostOf(flags.listen))) options.data_address = absl::StrCat(HostOf(flags.listen), ":0");
  } else if (flags.data != "none") {
    options.data_address = flags.data;
  }
  if (flags.socket == "auto") {
    options.local_socket = absl::StrCat(flags.store.store, "/run/socket");
  } else if (flags.socket != "none") {
    options.local_socket = flags.socket;
  }
  options.metrics_address = flags.metrics;
  options.access_file = flags.access_file;
  options.tls = flags.store.tls;
  options.version = std::string(BuildName());
  return options;
}

// "host:port" of UCX, or empty.
std::string UcxAddress(const store::node::Node::Addresses& addresses) {
  for (const std::string& address : addresses.data) {
    absl::string_view rest = address;
    if (absl::ConsumePrefix(&rest, "ucx://")) return std::string(rest);
  }
  return "";
}

// The node, alone or as a member of a cluster.
struct Serving {
  std::unique_ptr<store::cluster::MemberNode> member;  // null: the node is alone
  std::unique_ptr<store::node::Node> alone;
  store::node::Node* node = nullptr;

  std::optional<absl::Status> ended() const { return member == nullptr ? std::nullopt : member->ended(); }
};

// How this node connects to the other members.
absl::StatusOr<store::client::RemoteOptions> PeerOptions(const StoreCommandFlags& flags) {
  store::client::RemoteOptions peers;
  peers.name = ClientName();
  // It presents its own certificate to members that require one.
  if (!flags.peer_ca.empty()) peers.tls = flags.store.tls;
  peers.tls.ca_file = flags.peer_ca;
  peers.tls.insecure = flags.store.tls.insecure;
  if (!flags.peer_key_file.empty()) {
    auto key = ReadSecretFile(flags.peer_key_file, kMinSecretBytes, kMaxSecretBytes);
    KVLINK_RETURN_IF_ERROR(Annotate(key.status(), "option --peer-key-file"));
    peers.key = *std::move(key);
  }
  return peers;
}

absl::StatusOr<Serving> Serve(const StoreCommandFlags& flags) {
  Serving serving;
  if (flags.cluster.cluster.empty()) {
    KVLINK_ASSIGN_OR_RETURN(serving.alone, store::node::Node::Start(OptionsOf(flags)));
    serving.node = serving.alone.get();
    return serving;
  }
  store::cluster::MemberNodeOptions options;
  options.node = OptionsOf(flags);
  KVLINK_ASSIGN_OR_RETURN(options.cluster, ClusterAddressOf(flags.cluster));
  options.zone = flags.zone;
  if (flags.weight > 0) options.weight = static_cast<uint32_t>(flags.weight);
  options.advertise = flags.advertise;
  options.hot.bytes_per_second = flags.hot;
  store::cluster::UpkeepOptions upkeep;
  KVLINK_ASSIGN_OR_RETURN(upkeep.peers, PeerOptions(flags));
  KVLINK_RETURN_IF_ERROR(Annotate(store::client::CheckTls(upkeep.peers.tls), "option --peer-ca"));
  upkeep.repair.bytes_per_second = flags.repair;
  upkeep.open_database = PrepareDatabase;
  options.companions.push_back(store::cluster::MakeUpkeep(std::move(upkeep)));
  KVLINK_ASSIGN_OR_RETURN(serving.member,
                          store::cluster::MemberNode::Start(std::move(options), SteadyNow() + kStartTimeout));
  serving.node = serving.member->node();
  return serving;
}

nlohmann::json ReadyMessage(const StoreCommandFlags& flags, const Serving& serving, bool created) {
  const store::node::Node::Addresses& addresses = serving.node->addresses();
  nlohmann::json ready = {{"store", flags.store.store},       {"created", created},
                          {"grpc", addresses.control},        {"ucx", UcxAddress(addresses)},
                          {"socket", addresses.local_socket}, {"metrics", addresses.metrics}};
  if (serving.member != nullptr) {
    ready["cluster"] = serving.member->membership().view()->settings.name;
    ready["node_id"] = store::cluster::IdHex(serving.member->id());
  }
  return ready;
}

// The node logs the outcome.
Reload::Read ReadsAccess(const std::string& file, store::node::Node* node) {
  return [file, node]() -> Reload::Use {
    return [node, list = store::node::AccessList::Load(file)] { (void)node->UseAccess(list); };
  };
}

}  // namespace

absl::Status RunStore(absl::Span<char* const> args) {
  StoreCommandFlags flags;
  Arguments arguments("store", "", kStoreSummary);
  KVLINK_RETURN_IF_ERROR(ParseStore(args, arguments, flags));
  if (arguments.help_wanted()) return absl::OkStatus();
  // Before any other thread starts, and until the node is destroyed.
  KVLINK_ASSIGN_OR_RETURN(const std::unique_ptr<EndSignals> signals, EndSignals::Catch());
  std::error_code error;
  const bool existed = std::filesystem::exists(flags.store.store + "/STORE", error);
  KVLINK_ASSIGN_OR_RETURN(const Serving serving, Serve(flags));
  store::node::Node* const node = serving.node;
  std::optional<Reload> access;
  if (!flags.access_file.empty()) access.emplace(ReadsAccess(flags.access_file, node));
  signals->BeginServing();
  absl::PrintF("%s\n", ReadyMessage(flags, serving, !existed).dump());
  std::fflush(stdout);
  while (!node->WaitForStop(SteadyNow() + absl::Milliseconds(200)) && !serving.ended().has_value()) {
    const EndSignals::Heard heard = signals->Next(absl::ZeroDuration());
    if (heard == EndSignals::Heard::kEnd) break;
    if (!access.has_value()) continue;
    if (heard == EndSignals::Heard::kHangUp) access->Begin();
    if (access->Overdue()) {
      (void)node->UseAccess(absl::DeadlineExceededError(absl::StrCat(
          "the access file ", flags.access_file, " cannot be read yet; all rights stay as they are until it is")));
    }
  }
  signals->BeginEnding();
  const absl::Status ended = serving.ended().value_or(absl::OkStatus());
  // The other members stop asking it while the work in progress ends.
  if (serving.member != nullptr) serving.member->Leave();
  node->Drain();
  const absl::Time until = SteadyNow() + absl::Seconds(flags.drain_seconds);
  while (!node->idle() && SteadyNow() < until) absl::SleepFor(absl::Milliseconds(50));
  return ended;
}

}  // namespace kvlink::cli
