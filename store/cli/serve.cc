// kvlink store: a node that serves a store. Signals are read from a descriptor, so that ending needs no handler.
#include <poll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/cli/args.h"
#include "base/cli/program.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/commands.h"
#include "store/cli/place.h"
#include "store/node/node.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kStoreSummary =
    "Serves the store in a directory: kvlink COMMAND --store HOST:PORT then works with it from other\n"
    "processes and hosts. Control (sessions, catalog, health, reflection) is gRPC on --listen; encodings\n"
    "travel over UCX on --data, over gRPC, or on the same host through shared memory (--socket).\n\n"
    "Without --access-file everybody who reaches it may do everything, so it listens on this host only.\n"
    "Lines of the file: NAME KEY read|write|admin NAMESPACE,NAMESPACE... (or *). UCX protects nobody from\n"
    "a hostile host: give --data to trusted ones only.\n\n"
    "When it serves, it prints its addresses as one line of JSON; its log goes to standard error, one\n"
    "JSON object a line. SIGTERM and SIGINT end it once what is under way has ended; a second one at once.";

// Signals as a descriptor, so that waiting for them needs no handler.
absl::StatusOr<Descriptor> CatchEndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Descriptor descriptor(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (descriptor.get() < 0) return absl::ErrnoToStatus(errno, "signalfd");
  return descriptor;
}

// False: nothing came within the time.
bool EndSignal(const Descriptor& signals, absl::Duration within) {
  pollfd waiting{signals.get(), POLLIN, 0};
  if (poll(&waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(within))) <= 0) return false;
  signalfd_siginfo info;
  return read(signals.get(), &info, sizeof(info)) == sizeof(info);
}

// A connection takes a descriptor: as many as this process may have, and not only as many as a shell gives it.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

struct StoreCommandFlags {
  StoreFlags store;
  std::string listen = "127.0.0.1:7400";
  std::string data = "auto";
  std::string socket = "auto";
  std::string metrics;
  std::string access_file;
  int64_t scrub = int64_t{32} << 20;
  int64_t drain_seconds = 30;
};

absl::Status ParseStore(absl::Span<char* const> args, Arguments& arguments, StoreCommandFlags& flags) {
  arguments.Text("store", "DIR", "Directory of the store; made if it is not there.", &flags.store.store);
  arguments.Text("listen", "HOST:PORT", "Where gRPC listens; port 0 chooses one.", &flags.listen);
  arguments.Text("data", "HOST:PORT|none|auto",
                 "Where UCX listens, for trusted hosts alone; auto: a free port where --listen is 127.0.0.1 or "
                 "localhost, else none.",
                 &flags.data);
  arguments.Text("socket", "PATH|none|auto",
                 "Socket through which readers on this host map the memory tier; auto: in the store's directory.",
                 &flags.socket);
  arguments.Text("metrics", "HOST:PORT", "Where Prometheus reads /metrics; without it nowhere.", &flags.metrics);
  arguments.Text("access-file", "FILE", "Who may do what; see above.", &flags.access_file);
  arguments.Bytes("memory", "Most memory for encodings.", &flags.store.memory);
  arguments.Bytes("capacity", "Most disk space for encodings; beyond it those used least are evicted.",
                  &flags.store.capacity);
  arguments.Bytes("scrub", "Bytes a second that are read back and checked in the background; 0: none.", &flags.scrub);
  arguments.Integer("drain-seconds", "N", "How long the end waits for what is under way.", 0, 86400,
                    &flags.drain_seconds);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError("it takes no operands; name the directory with --store");
  }
  if (IsNode(flags.store.store)) {
    return absl::InvalidArgumentError(
        absl::StrCat("option --store: ", flags.store.store, " is an address; name the directory of the store"));
  }
  return absl::OkStatus();
}

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

store::NodeOptions OptionsOf(const StoreCommandFlags& flags) {
  store::NodeOptions options;
  options.directory = flags.store.store;
  options.engine.dram_bytes = flags.store.memory;
  options.engine.capacity_bytes = flags.store.capacity;
  options.engine.scrub_bytes_per_second = flags.scrub;
  options.engine.share_memory = flags.socket != "none";
  options.control_address = flags.listen;
  if (flags.data == "auto") {
    // UCX trusts whoever connects: beyond this host it listens only where it was named.
    const std::string host = HostOf(flags.listen);
    if (host == "localhost" || host == "[::1]" || host.rfind("127.", 0) == 0) {
      options.data_address = absl::StrCat(host, ":0");
    }
  } else if (flags.data != "none") {
    options.data_address = flags.data;
  }
  if (flags.socket == "auto") {
    options.local_socket = absl::StrCat(flags.store.store, "/socket");
  } else if (flags.socket != "none") {
    options.local_socket = flags.socket;
  }
  options.metrics_address = flags.metrics;
  options.access_file = flags.access_file;
  options.version = std::string(BuildName());
  return options;
}

// "host:port" of UCX, or empty.
std::string UcxAddress(const store::Node::Addresses& addresses) {
  for (const std::string& address : addresses.data) {
    absl::string_view rest = address;
    if (absl::ConsumePrefix(&rest, "ucx://")) return std::string(rest);
  }
  return "";
}

}  // namespace

absl::Status RunStore(absl::Span<char* const> args) {
  StoreCommandFlags flags;
  Arguments arguments("store", "", kStoreSummary);
  KVLINK_RETURN_IF_ERROR(ParseStore(args, arguments, flags));
  if (arguments.help_wanted()) return absl::OkStatus();
  // Before any thread: they all leave these signals to this one.
  KVLINK_ASSIGN_OR_RETURN(const Descriptor signals, CatchEndSignals());
  RaiseDescriptorLimit();
  KVLINK_ASSIGN_OR_RETURN(const auto node, store::Node::Start(OptionsOf(flags)));
  const store::Node::Addresses& addresses = node->addresses();
  const nlohmann::json ready = {{"store", flags.store.store},
                                {"grpc", addresses.control},
                                {"ucx", UcxAddress(addresses)},
                                {"socket", addresses.local_socket},
                                {"metrics", addresses.metrics}};
  absl::PrintF("%s\n", ready.dump());
  std::fflush(stdout);
  while (!node->WaitForStop(SteadyNow() + absl::Milliseconds(200)) && !EndSignal(signals, absl::ZeroDuration())) {
  }
  node->Drain();
  const absl::Time until = SteadyNow() + absl::Seconds(flags.drain_seconds);
  while (!node->idle() && SteadyNow() < until && !EndSignal(signals, absl::Milliseconds(50))) {
  }
  return absl::OkStatus();
}

}  // namespace kvlink::cli
