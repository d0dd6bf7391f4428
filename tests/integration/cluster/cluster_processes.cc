// Each node has its own disk, a tmpfs of bounded size, so that it can be filled without affecting the others.
#include "tests/integration/cluster/cluster_processes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"
#include "tests/support/address.h"

namespace kvlink::testing {
namespace {

constexpr char kPort[] = "7400";
constexpr char kDiskSize[] = "size=1g";
constexpr absl::Duration kStartTimeout = absl::Minutes(2), kLook = absl::Milliseconds(50);

void Append(std::vector<std::string>* words, const std::vector<std::string>& more) {
  words->insert(words->end(), more.begin(), more.end());
}

}  // namespace

std::string ClusterProcesses::WhyNot() {
  if (!EtcdCluster::Installed()) return "etcd is not installed";
  if (!PostgresServer::Installed()) return "PostgreSQL is not installed";
  if (geteuid() != 0) return "only root makes network namespaces";
  return Network::WhyNot();
}

ClusterProcesses::ClusterProcesses(const ClusterShape& shape) : shape_(shape), scratch_(/*in_memory=*/true) {
  network_ = std::make_unique<Network>(shape.nodes + shape.spare_hosts, /*locals=*/3);
  etcd_ = std::make_unique<EtcdCluster>(shape.etcd_members, std::vector<std::string>(), "http", network_->local(1));
  PostgresOptions postgres;
  postgres.settings = {absl::StrCat("listen_addresses=127.0.0.1,", network_->local(2))};
  postgres.access = "host all all 0.0.0.0/0 trust\nlocal all all trust\nlocal replication all trust\n";
  postgres_ = std::make_unique<PostgresServer>(postgres);
  const std::string other = UnusedAddress(network_->local(2));
  other_port_ = other.substr(other.rfind(':') + 1);
  database_ = absl::StrCat("postgresql://kvlink@", network_->local(2), ":", postgres_->port(), ",", other, "/kvlink");

  key_ = "an-administrator-of-this-test";
  key_file_ = scratch_.path() + "/key";
  access_file_ = scratch_.path() + "/access";
  std::ofstream(key_file_) << key_;
  std::ofstream(access_file_) << "test " << key_ << " admin *\n";
  for (const std::string& file : {key_file_, access_file_}) chmod(file.c_str(), 0600);

  for (int i = 0; i < shape.nodes + shape.spare_hosts; ++i) {
    Node node;
    node.directory = absl::StrCat(scratch_.path(), "/node-", i, "/disk");
    std::filesystem::create_directories(node.directory);
    if (mount("none", node.directory.c_str(), "tmpfs", 0, kDiskSize) != 0) ADD_FAILURE() << "a tmpfs cannot be mounted";
    nodes_.push_back(std::move(node));
  }
  const Finished made = Kvlink({"cluster", "create", "--copies", absl::StrCat(shape.copies), "--acknowledged",
                                absl::StrCat(shape.acknowledged), "--database", database_});
  EXPECT_EQ(made.status, 0) << made.errors;
  std::vector<int> started;
  for (int i = 0; i < shape.nodes; ++i) {
    if (Start(i)) started.push_back(i);
  }
  AwaitActive(started);
}

ClusterProcesses::~ClusterProcesses() {
  for (Node& node : nodes_) {
    if (::testing::Test::HasFailure() && node.process != nullptr) {
      const std::string log = node.process->errors();
      std::fprintf(stderr, "-- the end of the log of %s\n%s\n", node.directory.c_str(),
                   log.substr(log.size() - std::min<size_t>(log.size(), 3000)).c_str());
    }
    node.process = nullptr;
    umount2(node.directory.c_str(), MNT_DETACH);
  }
}

std::string ClusterProcesses::name() const { return etcd_->endpoints() + "/test"; }

std::string ClusterProcesses::address(int node) const { return absl::StrCat(network_->address(node), ":", kPort); }

bool ClusterProcesses::Start(int node, Build build) {
  std::vector<std::string> words = network_->On(node);
  Append(&words, {"/usr/bin/env", absl::StrCat("LD_PRELOAD=", KVLINK_HOST_FAULTS),
                  absl::StrCat("KVLINK_HOST_FAULTS=", HostFaults(node)),
                  build == Build::kNext ? NEXT_BUILD : KVLINK_BINARY, "store"});
  Append(&words, {"--store",
                  nodes_[node].directory + "/store",
                  "--cluster",
                  name(),
                  "--listen",
                  address(node),
                  "--data",
                  absl::StrCat(network_->address(node), ":7401"),
                  "--memory",
                  shape_.memory,
                  "--capacity",
                  shape_.capacity,
                  "--access-file",
                  access_file_,
                  "--peer-key-file",
                  key_file_,
                  "--insecure",
                  "--socket",
                  "none",
                  "--drain-seconds",
                  "5"});
  SubprocessOptions options;
  options.environment = {"UCX_NET_DEVICES=all"};
  nodes_[node].process = std::make_unique<Subprocess>(words, options);
  Subprocess& process = *nodes_[node].process;
  const absl::Time deadline = SteadyNow() + absl::Minutes(1);
  while (SteadyNow() < deadline && process.running()) {
    if (absl::StrContains(process.output(), "\"grpc\"")) return true;
    absl::SleepFor(kLook);
  }
  ADD_FAILURE() << "node " << node << " does not serve: " << process.output() << process.errors();
  return false;
}

void ClusterProcesses::Kill(int node) {
  nodes_[node].process->Kill();
  nodes_[node].process->Wait();
}

int ClusterProcesses::Stop(int node) {
  nodes_[node].process->Signal(SIGTERM);
  return nodes_[node].process->Wait();
}

bool ClusterProcesses::Drain(int node) {
  const Finished drained = Kvlink({"drain", address(node), "--wait"});
  EXPECT_EQ(drained.status, 0) << drained.errors;
  if (drained.status != 0) return false;
  const int status = nodes_[node].process->Wait();
  EXPECT_EQ(status, 0) << nodes_[node].process->errors();
  return status == 0;
}

void ClusterProcesses::Freeze(int node) { nodes_[node].process->Signal(SIGSTOP); }
void ClusterProcesses::Thaw(int node) { nodes_[node].process->Signal(SIGCONT); }
bool ClusterProcesses::running(int node) { return nodes_[node].process != nullptr && nodes_[node].process->running(); }

void ClusterProcesses::EmptyDisk(int node) { std::filesystem::remove_all(nodes_[node].directory + "/store"); }

void ClusterProcesses::FillDisk(int node) {
  const std::string path = nodes_[node].directory + "/full";
  struct statvfs space = {};
  ASSERT_EQ(statvfs(nodes_[node].directory.c_str(), &space), 0);
  const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  ASSERT_GE(file, 0);
  EXPECT_EQ(posix_fallocate(file, 0, static_cast<off_t>(space.f_bavail * space.f_bsize)), 0);
  close(file);
}

void ClusterProcesses::FreeDisk(int node) { std::filesystem::remove(nodes_[node].directory + "/full"); }

void ClusterProcesses::SlowDisk(int node, int milliseconds) {
  nodes_[node].disk_milliseconds = milliseconds;
  WriteHostFaults(node);
}

void ClusterProcesses::MoveClock(int node, int seconds) {
  nodes_[node].clock_seconds = seconds;
  WriteHostFaults(node);
}

void ClusterProcesses::WriteHostFaults(int node) const {
  std::ofstream(HostFaults(node), std::ios::trunc)
      << nodes_[node].clock_seconds << " " << nodes_[node].disk_milliseconds;
}

void ClusterProcesses::AddStandby() { standby_ = postgres_->MakeStandby(other_port_); }

void ClusterProcesses::FailOver() {
  postgres_->Kill();
  standby_->Promote();
  other_port_ = postgres_->port();
  postgres_ = std::move(standby_);
}

Finished ClusterProcesses::Kvlink(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), KVLINK_BINARY);
  Append(&arguments, {"--cluster", name()});
  return RunToEnd(arguments);
}

bool ClusterProcesses::AwaitActive(const std::vector<int>& nodes) {
  Finished members;
  for (const absl::Time deadline = SteadyNow() + kStartTimeout; SteadyNow() < deadline; absl::SleepFor(kLook)) {
    members = Kvlink({"members", "list", "--json"});
    const auto json = nlohmann::json::parse(members.output, nullptr, false);
    if (!json.is_object()) continue;
    size_t active = 0;
    for (const auto& member : json.value("members", nlohmann::json::array())) {
      for (const int node : nodes) {
        active += member.value("address", "") == address(node) && member.value("state", "") == "active" &&
                  member.value("alive", false);
      }
    }
    if (active == nodes.size()) return true;
  }
  ADD_FAILURE() << "not all are active: " << members.output << members.errors;
  return false;
}

bool ClusterProcesses::AwaitRepaired() {
  Finished status;
  for (const absl::Time deadline = SteadyNow() + kStartTimeout; SteadyNow() < deadline; absl::SleepFor(kLook)) {
    status = Kvlink({"members", "list", "--json"});
    const auto json = nlohmann::json::parse(status.output, nullptr, false);
    if (!json.is_object()) continue;
    bool done = true;
    for (const auto& member : json.value("members", nlohmann::json::array())) {
      if (!member.value("alive", false)) continue;
      const auto progress = member.value("progress", nlohmann::json::object());
      done = done && progress.value("epoch", uint64_t{0}) == json.value("epoch", uint64_t{1}) &&
             progress.value("slots_done", uint64_t{0}) == progress.value("slots", uint64_t{1});
    }
    if (done) return true;
  }
  ADD_FAILURE() << "not repaired: " << status.output << status.errors;
  return false;
}

}  // namespace kvlink::testing
