// kvlink store: a node that serves a store. Signals are read from a descriptor, so that ending needs no handler.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
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
#include "base/cli/program.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "base/status.h"
#include "base/thread.h"
#include "nlohmann/json.hpp"
#include "store/cli/cluster_flags.h"
#include "store/cli/cluster_store.h"
#include "store/cli/commands.h"
#include "store/cli/place.h"
#include "store/cli/secret_file.h"
#include "store/cluster/node/member_node.h"
#include "store/cluster/node/upkeep.h"
#include "store/database/database.h"
#include "store/node/node.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kStoreSummary =
    "Serves the store in a directory: kvlink COMMAND --store HOST:PORT then works with it from other\n"
    "processes and hosts. Control (sessions, catalog, health) is gRPC on --listen; encodings travel over\n"
    "UCX on --data, over gRPC, or on the same host through shared memory (--socket).\n\n"
    "Without --access-file everybody who reaches it may do everything, so it listens on this host only.\n"
    "Lines of the file: NAME KEY read|write|admin|repair NAMESPACE,NAMESPACE... (or *); repair is for the\n"
    "other members of a cluster. UCX protects nobody from a hostile host: it listens beyond this one only\n"
    "where --data says so; open it to trusted hosts.\n\n"
    "With --cluster it is a member of a cluster (kvlink cluster create): it holds what falls to it, and\n"
    "clients find it by etcd. Its directory then belongs to that cluster.\n\n"
    "When it serves, it prints its addresses, and whether it made the store, as one line of JSON; its log\n"
    "goes to standard error, one JSON object a line. SIGTERM and SIGINT end it once what is under way has\n"
    "ended; a second one at once.";

// A node waits for the end of the lease of the process before it, and for its companions.
constexpr absl::Duration kStartTimeout = absl::Minutes(2);

// Signals as a descriptor, so that waiting for them needs no handler.
absl::StatusOr<Descriptor> CatchEndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Descriptor descriptor(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (descriptor.get() < 0) return absl::ErrnoToStatus(errno, "signalfd");
  return descriptor;
}

// False: nothing came within the time, or only that the node should read its access file again, which it then does.
bool EndSignal(const Descriptor& signals, absl::Duration within, store::node::Node* node) {
  pollfd waiting{signals.get(), POLLIN, 0};
  if (poll(&waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(within))) <= 0) return false;
  signalfd_siginfo info;
  if (read(signals.get(), &info, sizeof(info)) != sizeof(info)) return false;
  if (info.ssi_signo != SIGHUP) return true;
  (void)node->ReloadAccess();  // the node logs what comes of it
  return false;
}

// While it lives, SIGTERM and SIGINT end the process at once, as if nobody caught them: where it waits for others, and
// looks at no signal itself. What is on disk bears that.
class EndsAtOnce {
 public:
  explicit EndsAtOnce(const Descriptor& signals) : stop_(eventfd(0, EFD_CLOEXEC)) {
    thread_ = Thread("end-signals", [this, &signals] { Run(signals); });
  }
  ~EndsAtOnce() {
    const uint64_t one = 1;
    (void)!write(stop_.get(), &one, sizeof(one));
  }
  EndsAtOnce(const EndsAtOnce&) = delete;
  EndsAtOnce& operator=(const EndsAtOnce&) = delete;

 private:
  void Run(const Descriptor& signals) const {
    pollfd waiting[] = {{signals.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    while (waiting[1].revents == 0) {
      if (poll(waiting, 2, -1) < 0 && errno != EINTR) return;
      signalfd_siginfo info;
      if (waiting[0].revents == 0 || read(signals.get(), &info, sizeof(info)) != sizeof(info)) continue;
      if (info.ssi_signo == SIGHUP) continue;  // the access file is read at the start; at the end nobody new comes
      const int signal = static_cast<int>(info.ssi_signo);
      sigset_t set;
      sigemptyset(&set);
      sigaddset(&set, signal);
      pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
      raise(signal);
    }
  }

  const Descriptor stop_;
  Thread thread_;  // last: it uses the others
};

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
  arguments.Text("store", "DIR", "Directory of the store; made if it is not there.", &flags.store.store);
  arguments.Text("listen", "HOST:PORT", "Where gRPC listens; port 0 chooses one.", &flags.listen);
  arguments.Text("data", "HOST:PORT|none|auto",
                 "Where UCX listens, for trusted hosts alone; auto: a free port where --listen is 127.0.0.1 or "
                 "localhost, else none.",
                 &flags.data);
  arguments.Text("socket", "PATH|none|auto",
                 "Socket through which readers on this host map the memory tier; auto: run/socket in the store's "
                 "directory, for its owner.",
                 &flags.socket);
  arguments.Text("metrics", "HOST:PORT", "Where Prometheus reads /metrics; without it nowhere.", &flags.metrics);
  arguments.Text("access-file", "FILE", "Who may do what; see above.", &flags.access_file);
  arguments.Text("tls-cert", "FILE", "The node's certificate (PEM); with it gRPC is encrypted.",
                 &flags.store.tls.certificate_file);
  arguments.Text("tls-key", "FILE", "Key (PEM) of --tls-cert.", &flags.store.tls.key_file);
  arguments.Text("tls-ca", "FILE", "Demand of every client a certificate of this authority (PEM).",
                 &flags.store.tls.ca_file);
  arguments.Flag("insecure", "Take keys in plain text from other hosts: where something else encrypts.",
                 &flags.store.tls.insecure);
  arguments.Bytes("memory", "Most memory for encodings.", &flags.store.memory);
  arguments.Bytes(
      "capacity",
      "Most disk space for encodings; beyond it those used least are evicted. The store remembers it; 0: as "
      "remembered, 64 GiB of a new store.",
      &flags.store.capacity);
  arguments.Bytes("scrub", "Bytes a second that are read back and checked in the background; 0: none.", &flags.scrub);
  arguments.Integer("drain-seconds", "N", "How long the end waits for what is under way.", 0, 86400,
                    &flags.drain_seconds);
  // A cluster from the environment is for clients: a node joins where it is told to.
  flags.cluster.cluster.clear();
  AddClusterFlags(arguments, flags.cluster);
  arguments.Text("zone", "NAME", "When it joins: its failure domain; copies go to different ones.", &flags.zone);
  arguments.Integer("weight", "N",
                    "When it joins: its share of the encodings, against the other members'; 0: GiB of --capacity.", 0,
                    store::cluster::kMaxWeight, &flags.weight);
  arguments.Text("advertise", "HOST:PORT",
                 "Where the others of the cluster reach --listen; not given: there. Port 0: its port.",
                 &flags.advertise);
  arguments.Text("peer-key-file", "FILE",
                 "This node's key on the other members, where their access files give it the right 'repair'.",
                 &flags.peer_key_file);
  arguments.Text("peer-ca", "FILE", "Certificates (PEM) of the authority of the other members' certificates.",
                 &flags.peer_ca);
  arguments.Bytes("repair", "Most bytes a second that are copied from the other members.", &flags.repair);
  arguments.Bytes(
      "hot",
      "If more bytes a second of one encoding are pulled from this node, other members hold copies of it for a "
      "while; 0: never.",
      &flags.hot);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError("it takes no operands; name the directory with --store");
  }
  if (flags.repair < 1) return absl::InvalidArgumentError("option --repair: at least 1 byte a second");
  for (const char* option : {"zone", "weight", "advertise", "peer-key-file", "peer-ca", "repair", "hot"}) {
    if (arguments.given(option) && flags.cluster.cluster.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("option --", option, " is for members of a --cluster"));
    }
  }
  KVLINK_RETURN_IF_ERROR(CheckMemory(flags.store.memory));
  KVLINK_ASSIGN_OR_RETURN(const bool node, IsNode(flags.store.store));
  if (node) {
    return absl::InvalidArgumentError(
        absl::StrCat("option --store: ", flags.store.store, " is an address; name the directory of the store"));
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

// The node, as a member of a cluster or alone.
struct Serving {
  std::unique_ptr<store::cluster::MemberNode> member;  // null: alone
  std::unique_ptr<store::node::Node> alone;
  store::node::Node* node = nullptr;

  std::optional<absl::Status> ended() const { return member == nullptr ? std::nullopt : member->ended(); }
};

// As whom this node asks the others.
absl::StatusOr<store::client::RemoteOptions> PeerOptions(const StoreCommandFlags& flags) {
  store::client::RemoteOptions peers;
  peers.name = ClientName();
  // Its own certificate is what it shows to those who demand one.
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
  upkeep.repair.bytes_per_second = flags.repair;
  upkeep.open_log = [](const store::cluster::ClusterSettings& settings,
                       absl::Time deadline) -> absl::StatusOr<std::unique_ptr<store::database::DropLog>> {
    return PrepareDatabase(settings, deadline);
  };
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

}  // namespace

absl::Status RunStore(absl::Span<char* const> args) {
  StoreCommandFlags flags;
  Arguments arguments("store", "", kStoreSummary);
  KVLINK_RETURN_IF_ERROR(ParseStore(args, arguments, flags));
  if (arguments.help_wanted()) return absl::OkStatus();
  // Before any thread: they all leave these signals to this one.
  KVLINK_ASSIGN_OR_RETURN(const Descriptor signals, CatchEndSignals());
  std::error_code error;
  const bool existed = std::filesystem::exists(flags.store.store + "/STORE", error);
  // Before what is served, so that it still looks while that ends.
  std::optional<EndsAtOnce> ends_at_once(std::in_place, signals);
  KVLINK_ASSIGN_OR_RETURN(const Serving serving, Serve(flags));
  ends_at_once.reset();
  store::node::Node* const node = serving.node;
  absl::PrintF("%s\n", ReadyMessage(flags, serving, !existed).dump());
  std::fflush(stdout);
  while (!node->WaitForStop(SteadyNow() + absl::Milliseconds(200)) && !EndSignal(signals, absl::ZeroDuration(), node) &&
         !serving.ended().has_value()) {
  }
  ends_at_once.emplace(signals);
  const absl::Status ended = serving.ended().value_or(absl::OkStatus());
  // The others ask it no more, while what is under way ends.
  if (serving.member != nullptr) serving.member->Leave();
  node->Drain();
  const absl::Time until = SteadyNow() + absl::Seconds(flags.drain_seconds);
  while (!node->idle() && SteadyNow() < until) absl::SleepFor(absl::Milliseconds(50));
  return ended;
}

}  // namespace kvlink::cli
