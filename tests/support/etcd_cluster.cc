// Administers etcd through its JSON gateway, so that tests need neither etcdctl nor messages that the product does not
// use.
#include "tests/support/etcd_cluster.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "tests/support/address.h"

namespace kvlink::testing {
namespace {

constexpr absl::Duration kPatience = absl::Minutes(1), kLook = absl::Milliseconds(20);

Descriptor Connect(const std::string& endpoint) {
  const size_t colon = endpoint.rfind(':');
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(endpoint.substr(colon + 1))));
  inet_pton(AF_INET, endpoint.substr(0, colon).c_str(), &address.sin_addr);
  Descriptor connection(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval timeout = {5, 0};
  setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  if (connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return Descriptor();
  return connection;
}

// The number after `"name":"` in a JSON text; empty if there is none.
std::string NumberOf(const std::string& json, const std::string& name) {
  const std::string begin = absl::StrCat("\"", name, "\":\"");
  const size_t at = json.find(begin);
  if (at == std::string::npos) return "";
  return json.substr(at + begin.size(), json.find('"', at + begin.size()) - at - begin.size());
}

// Encoded as bytes are in JSON.
constexpr char kShared[] = "c2hhcmVkLw==", kSharedEnd[] = "c2hhcmVkMA==";  // "shared/", "shared0"

}  // namespace

bool EtcdCluster::Installed() { return std::system("etcd --version > /dev/null 2>&1") == 0; }

EtcdCluster::EtcdCluster(int members, const std::vector<std::string>& arguments, const std::string& scheme,
                         const std::string& host)
    : arguments_(arguments), scheme_(scheme) {
  std::set<std::string> taken;
  const auto unused = [&taken, &host] {
    std::string address = UnusedAddress(host);
    while (!taken.insert(address).second) address = UnusedAddress(host);
    return address;
  };
  for (int i = 0; i < members; ++i) members_.push_back({absl::StrCat("member-", i), unused(), unused(), nullptr});
  for (Member& member : members_) Start(&member);
  for (const Member& member : members_) AwaitServing(member);
}

EtcdCluster::~EtcdCluster() {
  if (!::testing::Test::HasFailure()) return;
  for (const Member& member : members_) {
    if (member.process == nullptr) continue;
    const std::string log = member.process->errors();
    std::fprintf(stderr, "-- the end of the log of %s\n%s\n", member.name.c_str(),
                 log.substr(log.size() - std::min<size_t>(log.size(), 2000)).c_str());
  }
}

std::string EtcdCluster::endpoints() const {
  return absl::StrJoin(members_, ",", [](std::string* out, const Member& member) { out->append(member.endpoint); });
}

void EtcdCluster::Start(Member* member) {
  const std::string clients = absl::StrCat(scheme_, "://", member->endpoint), peers = "http://" + member->peer;
  std::vector<std::string> command = {
      "/usr/bin/env",
      "etcd",
      "--name",
      member->name,
      "--data-dir",
      DataOf(*member),
      "--listen-client-urls",
      clients,
      "--advertise-client-urls",
      clients,
      "--listen-peer-urls",
      peers,
      "--initial-advertise-peer-urls",
      peers,
      "--initial-cluster",
      absl::StrJoin(members_, ",",
                    [](std::string* out, const Member& one) { absl::StrAppend(out, one.name, "=http://", one.peer); }),
      "--initial-cluster-token",
      directory_.path(),
      "--bcrypt-cost",
      "4",
  };
  command.insert(command.end(), arguments_.begin(), arguments_.end());
  member->process = std::make_unique<Subprocess>(command);
  member->frozen = false;
}

void EtcdCluster::AwaitServing(const Member& member) const {
  // etcd listens for clients once it has found the others.
  const absl::Time deadline = SteadyNow() + kPatience;
  while (Connect(member.endpoint).get() < 0) {
    ASSERT_TRUE(member.process->running()) << member.name << " ended: " << member.process->errors();
    ASSERT_LT(SteadyNow(), deadline) << member.name << " does not serve: " << member.process->errors();
    absl::SleepFor(kLook);
  }
}

void EtcdCluster::Kill(int member) {
  members_[member].process->Kill();
  members_[member].process->Wait();
}

void EtcdCluster::Freeze(int member) {
  members_[member].process->Signal(SIGSTOP);
  // Signal returns once the signal is sent; the process may still run briefly.
  siginfo_t stopped = {};
  EXPECT_EQ(waitid(P_PID, static_cast<id_t>(members_[member].process->pid()), &stopped, WSTOPPED), 0);
  members_[member].frozen = true;
}

void EtcdCluster::Thaw(int member) {
  members_[member].process->Signal(SIGCONT);
  members_[member].frozen = false;
}

void EtcdCluster::Restart(int member) {
  Start(&members_[member]);
  AwaitServing(members_[member]);
}

void EtcdCluster::Backup() {
  Kill(0);
  std::filesystem::copy(DataOf(members_[0]), directory_.path() + "/backup", std::filesystem::copy_options::recursive);
  Restart(0);
}

void EtcdCluster::Restore() {
  Kill(0);
  std::filesystem::remove_all(DataOf(members_[0]));
  std::filesystem::copy(directory_.path() + "/backup", DataOf(members_[0]), std::filesystem::copy_options::recursive);
  Restart(0);
}

std::string EtcdCluster::DataOf(const Member& member) const {
  return absl::StrCat(directory_.path(), "/", member.name);
}

int EtcdCluster::Leader() {
  for (const absl::Time deadline = SteadyNow() + kPatience; SteadyNow() < deadline; absl::SleepFor(kLook)) {
    for (int i = 0; i < size(); ++i) {
      if (members_[i].frozen || !members_[i].process->running()) continue;
      const std::string status = Post(i, "/v3/maintenance/status", "{}");
      if (!status.empty() && NumberOf(status, "leader") == NumberOf(status, "member_id")) return i;
    }
  }
  ADD_FAILURE() << "etcd has no leader";
  return 0;
}

std::string EtcdCluster::Post(int member, const std::string& path, const std::string& json) const {
  const Descriptor connection = Connect(members_[member].endpoint);
  if (connection.get() < 0) return "";
  const std::string request =
      absl::StrCat("POST ", path, " HTTP/1.0\r\nContent-Length: ", json.size(), "\r\n\r\n", json);
  if (send(connection.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
    return "";
  }
  std::string answer;
  char piece[4096];
  for (ssize_t n = 0; (n = recv(connection.get(), piece, sizeof(piece), 0)) > 0;) answer.append(piece, n);
  if (answer.find(" 200 ") == std::string::npos) return "";
  return answer.substr(answer.find("\r\n\r\n") + 4);
}

void EtcdCluster::Compact(int64_t revision) {
  EXPECT_NE(Post(0, "/v3/kv/compaction", absl::StrCat("{\"revision\":", revision, ",\"physical\":true}")), "");
}

void EtcdCluster::EnableAuthentication() {
  const auto post = [this](const char* path, const std::string& json) { EXPECT_NE(Post(0, path, json), "") << json; };
  for (const std::string name : {"root", "reader"}) {
    post("/v3/auth/user/add", absl::StrCat(R"({"name":")", name, R"(","password":")", name, "\"}"));
    post("/v3/auth/role/add", absl::StrCat(R"({"name":")", name, "\"}"));
    post("/v3/auth/user/grant", absl::StrCat(R"({"user":")", name, R"(","role":")", name, "\"}"));
  }
  post("/v3/auth/role/grant", absl::StrCat(R"({"name":"reader","perm":{"permType":"READ","key":")", kShared,
                                           R"(","range_end":")", kSharedEnd, "\"}}"));
  post("/v3/auth/enable", "{}");
}

}  // namespace kvlink::testing
