#include "tests/store/client/remote_place.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace kvlink::testing {
namespace {

template <typename T>
T Must(absl::StatusOr<T> made, const char* what) {
  if (!made.ok()) {
    std::fprintf(stderr, "no %s: %s\n", what, made.status().ToString().c_str());
    std::abort();
  }
  return *std::move(made);
}

}  // namespace

RemotePlace::RemotePlace(RemotePlaceOptions options) : options_(std::move(options)) {
  node_ = std::make_unique<TestNode>(options_.way == "ucx" ? Carrier::kUcx : Carrier::kLoopback,
                                     [this](store::node::NodeOptions* node) { Change(node); });
  OpenClient();
}

RemotePlace::~RemotePlace() { CloseClient(); }

void RemotePlace::Change(store::node::NodeOptions* options) {
  options->engine.dram_bytes = options_.store.dram_bytes;
  options->engine.capacity_bytes = options_.store.capacity_bytes;
  options->engine.segment_bytes = 0;
  options->control_address = control_address_;
  if (options_.way == "mapped") {
    options->engine.share_memory = true;
    options->local_socket = socket_directory_.path() + "/socket";
  }
  if (options_.faulty && options_.way == "ucx") {
    options->data_address.clear();
    options->carriers.push_back({"ucx", NewTransport(Carrier::kUcx), "127.0.0.1:0"});
  }
  if (options_.faulty) {
    auto faulty = Must(transport::NewFaultyTransport(std::move(options->carriers.at(0).transport), options_.faults),
                       "faulty transport");
    faulty->Enable(false);
    node_faults_ = faulty.get();
    options->carriers[0].transport = std::move(faulty);
  }
  if (options_.node) options_.node(options);
}

std::shared_ptr<transport::Transport> RemotePlace::ClientTransport() {
  if (!options_.faulty) return options_.way == "loopback" ? node_->NewClientTransport() : nullptr;
  transport::FaultOptions faults = options_.faults;
  faults.seed += 1000003;
  client_faults_ =
      Must(transport::NewFaultyTransport(node_->NewClientTransport(), std::move(faults)), "faulty transport");
  client_faults_->Enable(false);
  return client_faults_;
}

store::client::RemoteOptions RemotePlace::ClientOptions() {
  store::client::RemoteOptions options;
  options.address = control_address_;
  options.name = "test";
  options.carrier = *store::client::ParseCarrier(options_.way == "loopback" ? "auto" : options_.way);
  options.receive_bytes = int64_t{64} << 20;
  options.sending_bytes = int64_t{16} << 20;
  options.transport = ClientTransport();
  if (options_.client) options_.client(&options);
  return options;
}

void RemotePlace::OpenClient() {
  CloseClient();
  remote_ = Must(store::client::OpenRemote(ClientOptions()), "client");
}

void RemotePlace::CloseClient() {
  remote_ = nullptr;
  client_faults_ = nullptr;
}

void RemotePlace::Reopen() {
  CloseClient();
  StopNode();
  StartNode();
  OpenClient();
}

void RemotePlace::EnableFaults(bool on) {
  node_faults_->Enable(on);
  client_faults_->Enable(on);
}

}  // namespace kvlink::testing
