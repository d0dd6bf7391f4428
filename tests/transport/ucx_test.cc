// Behaviour particular to UCX: where it listens, ports that were in use a moment ago, and crowds.
#include "transport/ucx/ucx.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "base/descriptor_limit.h"
#include "gtest/gtest.h"
#include "tests/support/resident_bytes.h"
#include "tests/support/seed.h"
#include "tests/support/subprocess.h"
#include "tests/transport/peers.h"
#include "transport/address.h"
#include "transport/ucx/port_guard.h"

namespace kvlink::transport {
namespace {

using namespace kvlink::testing;

TEST(Ucx, ListensWhereItIsToldAndNowhereElse) {
  unsetenv("UCX_NET_DEVICES");
  auto transport = NewUcxTransport({}, "127.0.0.1:0");
  ASSERT_TRUE(transport.ok()) << transport.status();
  {
    Server server(transport->get());
    const auto addresses = Listening();
    EXPECT_GE(addresses.size(), 1u);
    EXPECT_EQ(addresses.count("0100007F"), addresses.size()) << *addresses.begin();
  }
  EXPECT_EQ(NewUcxTransport({}, "192.0.2.77:1").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(NewUcxTransport({}, "nonsense").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*DeviceWith(*Resolve(*ParseAddress("0.0.0.0:1"))), "");
  EXPECT_EQ(*DeviceWith(*Resolve(*ParseAddress("[::]:1"))), "");
  EXPECT_EQ(*DeviceWith(*Resolve(*ParseAddress("127.0.0.9:1"))), "lo");
  setenv("UCX_NET_DEVICES", "lo", 1);
}

TEST(Ucx, APortInUseIsRefused) {
  auto first = NewTransport(Carrier::kUcx), second = NewTransport(Carrier::kUcx);
  Server server(first.get());
  EXPECT_EQ(second->Listen(server.address(), [](std::shared_ptr<Connection>) { return nullptr; }).status().code(),
            absl::StatusCode::kUnavailable);
}

// A node that was killed, with connections open, and is started again.
TEST(Ucx, ThePortOfAKilledProcessIsFreeAtOnce) {
  const std::string program =
      (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "transport_peer_process").string();
  std::string address = "127.0.0.1:0";
  for (int cycle = 0; cycle < 5; ++cycle) {
    Subprocess child({program, "ucx", "listen", address});
    while (child.running() && child.output().find('\n') == std::string::npos) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_TRUE(child.running()) << child.errors();
    const std::string said = child.output().substr(0, child.output().find('\n'));
    EXPECT_TRUE(cycle == 0 || said == address) << said << ", " << address;
    address = said;
    auto client = NewTransport(Carrier::kUcx);
    const auto inbox = std::make_shared<Inbox>();
    auto connection = client->Connect(address, inbox, Patience());
    ASSERT_TRUE(connection.ok()) << connection.status();
    ASSERT_TRUE((*connection)->SendMessage("echo").ok());
    EXPECT_EQ(inbox->Next(), "echo");
    child.Kill();
    EXPECT_EQ(inbox->Closed().code(), absl::StatusCode::kUnavailable);
    *connection = nullptr;
  }
}

// A client of UCX 1.13 as its server sees it first (tcp_sockcm.h): the length of what follows, a status, padding, and
// that. Negative: not connected.
Descriptor Connected(const SocketAddress& address) {
  Descriptor made(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  timeval limit = {20, 0};
  setsockopt(made.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  return connect(made.get(), address.get(), address.length) == 0 ? std::move(made) : Descriptor();
}
bool Speak(const Descriptor& socket) {
  struct {
    uint64_t length = 64, status = 0;
    char data[64] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 2};  // what port_guard.cc lets through
  } request;
  return send(socket.get(), &request, sizeof(request), MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(request));
}

// UCX holds a connection whose peer has said nothing yet, and with it a pointer to the listener it came by.
TEST(Ucx, WhoSpeaksAfterTheListenerHasGoneIsRefused) {
  auto transport = NewTransport(Carrier::kUcx), client = NewTransport(Carrier::kUcx);
  Server server(transport.get());
  const std::string address = server.address();
  std::vector<Descriptor> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(Connected(*Resolve(*ParseAddress(address))));
  // UCX takes connections in their order: it has taken those before.
  auto heard = client->Connect(address, std::make_shared<Inbox>(), Patience());
  ASSERT_TRUE(heard.ok()) << heard.status();
  *heard = nullptr;
  server.StopListening();
  for (const Descriptor& one : silent) {
    ASSERT_TRUE(Speak(one));
    char answer[64];
    EXPECT_GT(recv(one.get(), answer, sizeof(answer), 0), 8);
    EXPECT_NE(answer[8], 0);
  }
  EXPECT_EQ(client->Connect(address, std::make_shared<Inbox>(), Patience()).status().code(),
            absl::StatusCode::kUnavailable);
}

// UCX hears them on a thread of its own, also while what they are for goes.
TEST(Ucx, OthersMaySpeakWhileATransportEnds) {
  const int rounds = Soak() ? 2000 : 100;
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < rounds; ++round) {
    auto transport = NewTransport(Carrier::kUcx);
    Server server(transport.get());
    const SocketAddress address = *Resolve(*ParseAddress(server.address()));
    std::vector<Descriptor> silent;
    for (int i = 0; i < 16; ++i) silent.push_back(Connected(address));
    server.StopListening();
    std::thread others([&, wait = random() % 500] {
      for (const Descriptor& one : silent) {
        std::this_thread::sleep_for(std::chrono::microseconds(wait));
        Speak(one);
      }
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
    transport = nullptr;
    others.join();
  }
}

int OpenDescriptors() {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

// Whatever connects without speaking UCX costs nothing for long: no processor while it is there, no descriptor after.
TEST(Ucx, StrangersAreKeptAway) {
  const int rounds = Soak() ? 500 : 4;
  std::mt19937_64 random(TestSeed());
  auto transport = NewTransport(Carrier::kUcx), client = NewTransport(Carrier::kUcx);
  Server server(transport.get());
  // One that speaks it stays.
  const auto inbox = std::make_shared<Inbox>();
  auto connection = client->Connect(server.address(), inbox, Patience());
  ASSERT_TRUE(connection.ok()) << connection.status();
  const auto accepted = server.Next();
  ASSERT_TRUE((*connection)->SendMessage("here").ok());
  EXPECT_EQ(accepted.inbox->Next(), "here");
  ASSERT_TRUE(accepted.connection->SendMessage("and here").ok());
  EXPECT_EQ(inbox->Next(), "and here");
  const int before = OpenDescriptors();
  std::vector<SocketAddress> doors;
  for (const int fd : PortGuard::Listening()) {
    SocketAddress door;
    door.length = sizeof(door.storage);
    ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&door.storage), &door.length), 0);
    doors.push_back(door);
  }
  ASSERT_GE(doors.size(), 2u);  // the listener's, and one of UCX's own
  std::string noise(5000, 0);
  for (char& byte : noise) byte = static_cast<char>(random());
  const std::string get = absl::StrCat("GET / HTTP/1.1\r\nX: ", std::string(4100, 'x'), "\r\n\r\n");
  // Begins as one of UCX's messages, and goes on with noise.
  const std::string like_it = std::string("\x58\x02", 2) + std::string(14, '\0') + noise.substr(0, 600);
  // Bring more than the length that they begin with says.
  const std::string zeros(100, '\0');
  std::string too_long("\x20", 1);
  too_long.resize(200, '\0');
  too_long[24] = 1, too_long[25] = 2;  // what port_guard.cc lets through
  std::vector<Descriptor> open;
  for (int round = 0; round < rounds; ++round) {
    for (const SocketAddress& door : doors) {
      for (const std::string& junk :
           {noise, get, noise.substr(0, 5), like_it, like_it.substr(0, 16), zeros, too_long, std::string()}) {
        Descriptor made = Connected(door);
        ASSERT_GE(made.get(), 0);
        (void)!send(made.get(), junk.data(), junk.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (random() % 2 == 0) open.push_back(std::move(made));
      }
    }
  }
  const int held = static_cast<int>(open.size());
  const double cpu = CpuSeconds();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  std::printf("%d strangers: %.2f of a processor\n", rounds * 16, CpuSeconds() - cpu);
  const absl::Time limit = Patience();
  while (OpenDescriptors() > before + held && SteadyNow() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_LE(OpenDescriptors(), before + held);
  EXPECT_GT(transport->Stats().closes["stranger"], 0);
  ASSERT_TRUE((*connection)->SendMessage("still here").ok());
  EXPECT_EQ(accepted.inbox->Next(), "still here");
  auto another = client->Connect(server.address(), std::make_shared<Inbox>(), Patience());
  EXPECT_TRUE(another.ok()) << another.status();
}

// More than UCX can watch by its own limit, at which it closed descriptors twice: by then perhaps another's.
TEST(Ucx, ACrowdOfStrangersIsLetInByAndBy) {
  const int crowd = Soak() ? 8000 : 1500;
  if (RaiseDescriptorLimit() < 2 * crowd + 1000) GTEST_SKIP() << "too few descriptors";
  auto transport = NewTransport(Carrier::kUcx), client = NewTransport(Carrier::kUcx);
  Server server(transport.get());
  auto connection = client->Connect(server.address(), std::make_shared<Inbox>(), Patience());
  ASSERT_TRUE(connection.ok()) << connection.status();
  const auto accepted = server.Next();
  const SocketAddress address = *Resolve(*ParseAddress(server.address()));
  ::testing::internal::CaptureStderr();
  const int before = OpenDescriptors();
  std::vector<Descriptor> open;
  int most = 0;
  const absl::Time limit = Patience();
  const auto talk = [&](int i) {
    ASSERT_TRUE((*connection)->SendMessage(absl::StrCat(i)).ok());
    ASSERT_EQ(accepted.inbox->Next(), absl::StrCat(i));
    most = std::max(most, OpenDescriptors() - before - static_cast<int>(open.size()));
  };
  while (static_cast<int>(open.size()) < crowd) {
    open.push_back(Connected(address));
    if (open.size() % 100 == 0) {
      ASSERT_NO_FATAL_FAILURE(talk(static_cast<int>(open.size())));
    }
  }
  // All of them had their turn.
  while (transport->Stats().closes["stranger"] < crowd && SteadyNow() < limit) {
    ASSERT_NO_FATAL_FAILURE(talk(0));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_GE(transport->Stats().closes["stranger"], crowd);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find("failed to close"), std::string::npos) << said.substr(0, 500);
  std::printf("%d strangers: at most %d at a time\n", crowd, most);
  EXPECT_LE(most, PortGuard::kMaxStrangers * 5 / 4);
  auto another = client->Connect(server.address(), std::make_shared<Inbox>(), Patience());
  EXPECT_TRUE(another.ok()) << another.status();
}

// Passes on what a client of UCX says to a server, the first bytes in two segments.
class Splitter {
 public:
  Splitter(const SocketAddress& server, size_t first) : server_(server), first_(first) {
    listening_ = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(listening_.get(), reinterpret_cast<sockaddr*>(&any), sizeof(any)), 0);
    EXPECT_EQ(listen(listening_.get(), 1), 0);
    socklen_t length = sizeof(any);
    EXPECT_EQ(getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&any), &length), 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(any.sin_port));
    thread_ = std::thread([this] { Relay(); });
  }
  ~Splitter() {
    shutdown(listening_.get(), SHUT_RDWR);
    stop_ = true;
    thread_.join();
  }
  const std::string& address() const { return address_; }

 private:
  void Relay() {
    const Descriptor near(accept(listening_.get(), nullptr, nullptr));
    if (near.get() < 0) return;
    const Descriptor far = Connected(server_);
    const int on = 1;
    setsockopt(far.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    bool split = false;
    while (!stop_) {
      pollfd ends[2] = {{near.get(), POLLIN, 0}, {far.get(), POLLIN, 0}};
      if (poll(ends, 2, 50) <= 0) continue;
      for (int from = 0; from < 2; ++from) {
        if (ends[from].revents == 0) continue;
        char bytes[4096];
        const ssize_t got = recv(ends[from].fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got <= 0) return;
        size_t sent = 0;
        if (from == 0 && !std::exchange(split, true)) {
          sent = std::min(first_, static_cast<size_t>(got));
          (void)!send(far.get(), bytes, sent, MSG_NOSIGNAL);
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        (void)!send(ends[1 - from].fd, bytes + sent, static_cast<size_t>(got) - sent, MSG_NOSIGNAL);
      }
    }
  }

  const SocketAddress server_;
  const size_t first_;
  Descriptor listening_;
  std::string address_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// The filter sees one segment of TCP at a time.
TEST(Ucx, AHelloInTwoSegmentsIsHeard) {
  std::mt19937_64 random(TestSeed());
  auto transport = NewTransport(Carrier::kUcx), client = NewTransport(Carrier::kUcx);
  Server server(transport.get());
  const SocketAddress address = *Resolve(*ParseAddress(server.address()));
  for (const size_t first : {size_t{1}, size_t{8}, size_t{16}, size_t{24}, size_t{40}, 17 + random() % 60}) {
    SCOPED_TRACE(first);
    Splitter splitter(address, first);
    auto connection = client->Connect(splitter.address(), std::make_shared<Inbox>(), Patience());
    ASSERT_TRUE(connection.ok()) << connection.status();
    const auto accepted = server.Next();
    ASSERT_TRUE((*connection)->SendMessage("here").ok());
    EXPECT_EQ(accepted.inbox->Next(), "here");
  }
}

// Asserts that a crowd is served, and prints what it takes.
TEST(Ucx, ManyConnections) {
  const int count = Soak() ? 1000 : 100;
  RaiseDescriptorLimit();
  auto server_transport = NewTransport(Carrier::kUcx), client_transport = NewTransport(Carrier::kUcx);
  Server server(server_transport.get());
  const int descriptors = OpenDescriptors();
  const int64_t resident = ResidentBytes();
  std::vector<std::shared_ptr<Connection>> clients;
  std::vector<std::shared_ptr<Inbox>> inboxes;
  std::vector<Server::Accepted> accepted;
  for (int i = 0; i < count; ++i) {
    inboxes.push_back(std::make_shared<Inbox>());
    auto connected = client_transport->Connect(server.address(), inboxes.back(), Patience());
    ASSERT_TRUE(connected.ok()) << i << ": " << connected.status();
    clients.push_back(*connected);
    accepted.push_back(server.Next());
  }
  for (int i = 0; i < count; ++i) ASSERT_TRUE(clients[i]->SendMessage(absl::StrCat("request ", i)).ok());
  for (int i = 0; i < count; ++i) {
    ASSERT_EQ(accepted[i].inbox->Next(), absl::StrCat("request ", i));
    ASSERT_TRUE(accepted[i].connection->SendMessage("answer").ok());
  }
  for (int i = 0; i < count; ++i) ASSERT_EQ(inboxes[i]->Next(), "answer");
  std::printf("%d connections, both ends: %.1f descriptors and %lld KiB each\n", count,
              static_cast<double>(OpenDescriptors() - descriptors) / count,
              static_cast<long long>((ResidentBytes() - resident) / count >> 10));
  if (Soak()) {
    const double cpu = CpuSeconds();
    std::this_thread::sleep_for(std::chrono::seconds(20));
    std::printf("idle, both ends: %.2f%% of a processor\n", (CpuSeconds() - cpu) / 20 * 100);
  }
  clients.clear();
  for (int i = 0; i < count; ++i) ASSERT_EQ(accepted[i].inbox->Closed().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvlink::transport
