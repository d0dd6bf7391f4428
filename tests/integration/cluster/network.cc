// Uses the commands of iproute2: they are easy to read, and fast enough for a test.
#include "tests/integration/cluster/network.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {
namespace {

constexpr char kIp[] = "/sbin/ip";
constexpr char kTc[] = "/sbin/tc";

Finished Ip(const std::string& arguments) { return RunToEnd(absl::StrSplit(absl::StrCat(kIp, " ", arguments), ' ')); }

void Must(const std::string& arguments) {
  const Finished run = Ip(arguments);
  if (run.status != 0) ADD_FAILURE() << "ip " << arguments << ": " << run.errors;
}

std::string Unique() {
  static std::atomic<int> made{0};
  return absl::StrCat("kv", getpid() % 100000, "x", made++);
}

}  // namespace

std::string Network::WhyNot() {
  if (access(kIp, X_OK) != 0 || access(kTc, X_OK) != 0) return "iproute2 is not installed";
  const std::string name = Unique();
  const Finished bridge = Ip(absl::StrCat("link add ", name, " type bridge"));
  if (bridge.status != 0) return absl::StrCat("a bridge cannot be made: ", bridge.errors);
  Ip(absl::StrCat("link del ", name));
  const Finished made = Ip(absl::StrCat("netns add ", name));
  if (made.status != 0) return absl::StrCat("a network namespace cannot be made: ", made.errors);
  Ip(absl::StrCat("netns del ", name));
  return "";
}

Network::Network(int hosts, int locals) {
  bridge_ = Unique();
  // A separate subnet, so that tests can run in parallel.
  const std::string subnet = absl::StrCat("10.", 64 + getpid() / 256 % 128, ".", getpid() % 256, ".");
  Must(absl::StrCat("link add ", bridge_, " type bridge"));
  Must(absl::StrCat("link set ", bridge_, " up"));
  for (int local = 0; local < locals; ++local) {
    locals_.push_back(absl::StrCat(subnet, 1 + local));
    Must(absl::StrCat("addr add ", locals_.back(), "/24 dev ", bridge_));
  }
  for (int i = 0; i < hosts; ++i) {
    Host host;
    host.name = Unique();
    host.address = absl::StrCat(subnet, 101 + i);
    host.outer = host.name + "o";
    host.inner = host.name + "i";
    Must(absl::StrCat("netns add ", host.name));
    Must(absl::StrCat("link add ", host.outer, " type veth peer name ", host.inner, " netns ", host.name));
    Must(absl::StrCat("link set ", host.outer, " master ", bridge_, " up"));
    Must(absl::StrCat("-n ", host.name, " addr add ", host.address, "/24 dev ", host.inner));
    Must(absl::StrCat("-n ", host.name, " link set ", host.inner, " up"));
    Must(absl::StrCat("-n ", host.name, " link set lo up"));
    hosts_.push_back(host);
  }
}

Network::~Network() {
  for (size_t i = 0; i < hosts_.size(); ++i) Heal(static_cast<int>(i));
  for (const Host& host : hosts_) Ip(absl::StrCat("netns del ", host.name));  // also removes its link
  Ip(absl::StrCat("link del ", bridge_));
}

std::vector<std::string> Network::On(int host) const { return {kIp, "netns", "exec", hosts_[host].name}; }

void Network::Drop(int host, const std::string& to) {
  Must(absl::StrCat("-n ", hosts_[host].name, " route replace blackhole ", to, "/32"));
  hosts_[host].dropped.push_back(to);
}

void Network::DropFrom(const std::string& local, int host) {
  Must(absl::StrCat("rule add from ", local, " to ", hosts_[host].address, " blackhole"));
  hosts_[host].dropped_from.push_back(local);
}

void Network::Isolate(int host) {
  Must(absl::StrCat("link set ", hosts_[host].outer, " down"));
  hosts_[host].isolated = true;
}

void Network::Slow(int host, int bytes_per_second) {
  const Finished run =
      RunToEnd({kTc, "-n", hosts_[host].name, "qdisc", "replace", "dev", hosts_[host].inner, "root", "tbf", "rate",
                absl::StrCat(bytes_per_second, "bps"), "burst", "64kb", "latency", "200ms"});
  if (run.status != 0) ADD_FAILURE() << "tc: " << run.errors;
  hosts_[host].slow = true;
}

void Network::Heal(int host) {
  Host& at = hosts_[host];
  for (const std::string& to : at.dropped) Ip(absl::StrCat("-n ", at.name, " route del blackhole ", to, "/32"));
  at.dropped.clear();
  for (const std::string& from : at.dropped_from) {
    Ip(absl::StrCat("rule del from ", from, " to ", at.address, " blackhole"));
  }
  at.dropped_from.clear();
  if (at.isolated) Must(absl::StrCat("link set ", at.outer, " up"));
  at.isolated = false;
  if (at.slow) RunToEnd({kTc, "-n", at.name, "qdisc", "del", "dev", at.inner, "root"});
  at.slow = false;
}

}  // namespace kvlink::testing
