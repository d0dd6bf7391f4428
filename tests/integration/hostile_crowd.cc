// HTTP/2 is written by hand, since a library would refuse to send half of it. One epoll serves all peers, so that ten
// thousand need one thread.
#include "tests/integration/hostile_crowd.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "proto/data.h"
#include "proto/metadata.h"
#include "tests/support/gzip.h"
#include "tests/support/seed.h"
#include "transport/frame.h"

namespace kvlink::testing {
namespace {

constexpr absl::Duration kAgain = absl::Milliseconds(5);  // until a refused peer reconnects
constexpr int kHosts = 8;                                 // addresses that the crowd comes from

// Big-endian.
std::string Number(uint64_t value, int bytes) {
  std::string out;
  for (int i = bytes - 1; i >= 0; --i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

// Types and flags of HTTP/2 frames.
constexpr uint8_t kData = 0, kHeaders = 1, kSettings = 4, kPing = 6, kEndStream = 1, kEndHeaders = 4;

std::string Http2Frame(uint8_t type, uint8_t flags, uint32_t stream, const std::string& body) {
  return absl::StrCat(Number(body.size(), 3), Number(type, 1), Number(flags, 1), Number(stream, 4), body);
}

// `window`: how many bytes of answers the node may send before an update.
std::string Preface(uint32_t window = 65535) {
  return absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                      Http2Frame(kSettings, 0, 0, Number(4, 2) + Number(window, 4)));
}

std::string Header(const std::string& name, const std::string& value) {
  return absl::StrCat(Number(0, 1), Number(name.size(), 1), name, Number(value.size(), 1), value);
}

struct Http2Call {
  std::string method;  // including the service
  std::string token;
  bool gzip = false;
};

std::string Begin(uint32_t stream, const Http2Call& call) {
  std::string headers =
      absl::StrCat(Header(":method", "POST"), Header(":scheme", "http"), Header(":path", call.method),
                   Header(":authority", "node"), Header("content-type", "application/grpc"), Header("te", "trailers"));
  if (call.gzip) headers += Header("grpc-encoding", "gzip");
  if (!call.token.empty()) headers += Header(kTokenMetadata, call.token);
  return Http2Frame(kHeaders, kEndHeaders, stream, headers);
}

// A gRPC message, or its beginning if `claims` exceeds the bytes.
std::string Message(uint32_t stream, bool compressed, const std::string& bytes, size_t claims, bool last) {
  const std::string message = absl::StrCat(Number(compressed ? 1 : 0, 1), Number(claims, 4), bytes);
  std::string out;
  for (size_t begin = 0; begin < message.size(); begin += 16384) {
    const std::string piece = message.substr(begin, 16384);
    const bool ends = last && begin + piece.size() == message.size();
    out += Http2Frame(kData, ends ? kEndStream : 0, stream, piece);
  }
  return out;
}

std::string RandomBytes(std::mt19937_64* random, size_t count) {
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>((*random)());
  return bytes;
}

}  // namespace

void YieldToOthers() { setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), 19); }

std::vector<std::string> GrpcSpeeches(const std::string& token) {
  std::mt19937_64 random(TestSeed());
  const std::string store = "/kvlink.store.v1.Store/", connect = "/kvlink.store.v1.Data/Connect";
  const auto streams = [&](const std::string& method, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += Begin(static_cast<uint32_t>(2 * i + 1), {method, token});
    return out;
  };
  const std::string zipped = Gzip(std::string(size_t{16} << 20, '\0'));
  std::string asked = Preface(0), pings = Preface();
  for (uint32_t i = 0; i < 32; ++i) {
    // Answers that cannot be sent, since the window is 0.
    const std::string method = i % 2 == 0 || token.empty() ? "/grpc.health.v1.Health/Check" : store + "Stats";
    asked += Begin(2 * i + 1, {method, token}) + Message(2 * i + 1, false, "", 0, true);
  }
  for (int i = 0; i < 500; ++i) pings += Http2Frame(kPing, 0, 0, std::string(8, 'p'));
  std::string repetitive;
  for (int i = 0; i < 20000; ++i) repetitive += std::string("\x12\x00", 2);
  return {
      "",
      Preface(),
      // Streams without messages.
      Preface() + streams(store + "OpenSession", 1),
      Preface() + streams(store + "PutDocuments", 48),
      Preface() + streams(connect, 16),
      // Messages that are small on the wire and large once parsed.
      Preface() + Begin(1, {store + "PutDocuments", token, true}) + Message(1, true, zipped, zipped.size(), true),
      Preface() + Begin(1, {connect, token, true}) + Message(1, true, zipped, zipped.size(), false),
      Preface() + Begin(1, {store + "PutDocuments", token}) + Message(1, false, repetitive, repetitive.size(), true),
      // The beginning of a long message.
      Preface() + Begin(1, {connect, token}) + Message(1, false, std::string(60000, 'x'), size_t{4} << 20, false),
      asked,
      pings,
      "GET / HTTP/1.1\r\nHost: node\r\n\r\n",
      RandomBytes(&random, 4000),
  };
}

std::vector<std::string> UcxSpeeches() {
  std::mt19937_64 random(TestSeed());
  const auto length = [](uint64_t value) { return std::string(reinterpret_cast<const char*>(&value), sizeof(value)); };
  return {
      "",
      RandomBytes(&random, 5000),
      absl::StrCat("GET / HTTP/1.1\r\nX: ", std::string(4100, 'x'), "\r\n\r\n"),
      // Begin like a UCX message, and never end, or contain nonsense.
      length(600) + std::string(8, '\0') + RandomBytes(&random, 100),
      length(600) + std::string(8, '\0') + RandomBytes(&random, 600),
      length(uint64_t{1} << 40) + RandomBytes(&random, 100),
      "x",
  };
}

std::vector<std::string> LocalSpeeches() {
  std::mt19937_64 random(TestSeed());
  const std::string hello =
      transport::FrameHeader(transport::FrameKind::kHello, 0, 0, 12) + transport::HelloBody({0x1234567, 3600000});
  return {
      "",
      hello,
      hello.substr(0, 20),
      RandomBytes(&random, 4000),
      transport::FrameHeader(transport::FrameKind::kMessage, 0, 0, 60000) + std::string(60000, 'x'),
      transport::FrameHeader(transport::FrameKind::kHeartbeat, 0, 77, 0),
  };
}

HostileCrowd::HostileCrowd(CrowdOptions options)
    : options_(std::move(options)), poll_(epoll_create1(EPOLL_CLOEXEC)), peers_(options_.peers) {
  for (size_t i = 0; i < peers_.size(); ++i) waiting_.push_back(i);
  thread_ = Thread("hostile crowd", [this] { Run(); });
}

HostileCrowd::~HostileCrowd() { stop_.store(true); }

bool HostileCrowd::WaitForAll(absl::Duration within) const {
  const absl::Time deadline = SteadyNow() + within;
  while (came_.load() < options_.peers && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(20));
  return came_.load() >= options_.peers;
}

void HostileCrowd::Run() {
  YieldToOthers();
  std::array<epoll_event, 256> events;
  while (!stop_.load()) {
    bool refused = false;
    for (int i = 0; i < 256 && !waiting_.empty() && !refused; ++i) {
      const size_t index = waiting_.front();
      waiting_.pop_front();
      refused = !Connect(index);
      if (refused) waiting_.push_back(index);
    }
    const int wait = waiting_.empty() ? 50 : refused ? static_cast<int>(absl::ToInt64Milliseconds(kAgain)) : 0;
    const int count = epoll_wait(poll_.get(), events.data(), static_cast<int>(events.size()), wait);
    for (int i = 0; i < count; ++i) {
      const size_t index = events[i].data.u64;
      if ((events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
        Cut(index);
      } else if ((events[i].events & EPOLLOUT) != 0) {
        Speak(index);
      }
    }
  }
}

bool HostileCrowd::Connect(size_t index) {
  const bool local = options_.address[0] == '/';
  Peer& peer = peers_[index];
  sockaddr_storage to = {};
  socklen_t length = 0;
  if (local) {
    peer.socket = Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    auto* const at = reinterpret_cast<sockaddr_un*>(&to);
    at->sun_family = AF_UNIX;
    std::strncpy(at->sun_path, options_.address.c_str(), sizeof(at->sun_path) - 1);
    length = sizeof(*at);
  } else {
    peer.socket = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const size_t colon = options_.address.rfind(':');
    auto* const at = reinterpret_cast<sockaddr_in*>(&to);
    at->sin_family = AF_INET;
    int port = 0;
    if (!absl::SimpleAtoi(options_.address.substr(colon + 1), &port)) return false;
    at->sin_port = htons(static_cast<uint16_t>(port));
    inet_pton(AF_INET, options_.address.substr(0, colon).c_str(), &at->sin_addr);
    length = sizeof(*at);
    // Several source addresses give more ports; without linger, a closed port is free at once.
    sockaddr_in from = {};
    from.sin_family = AF_INET;
    from.sin_addr.s_addr = htonl(0x7f000002 + static_cast<uint32_t>(index % kHosts));
    const int yes = 1;
    const linger none = {1, 0};
    setsockopt(peer.socket.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof(yes));
    setsockopt(peer.socket.get(), SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    if (bind(peer.socket.get(), reinterpret_cast<const sockaddr*>(&from), sizeof(from)) != 0) return false;
  }
  if (peer.socket.get() < 0) return false;
  if (connect(peer.socket.get(), reinterpret_cast<const sockaddr*>(&to), length) != 0 && errno != EINPROGRESS) {
    peer.socket = Descriptor();
    return false;
  }
  if (!std::exchange(peer.came, true)) ++came_;
  peer.spoke = false;
  epoll_event event = {};
  event.events = EPOLLOUT | EPOLLRDHUP;
  event.data.u64 = index;
  return epoll_ctl(poll_.get(), EPOLL_CTL_ADD, peer.socket.get(), &event) == 0;
}

void HostileCrowd::Cut(size_t index) {
  if (peers_[index].spoke) --connected_;
  peers_[index].socket = Descriptor();
  waiting_.push_back(index);
}

void HostileCrowd::Speak(size_t index) {
  Peer& peer = peers_[index];
  const std::string& speech = options_.speeches[index % options_.speeches.size()];
  // Bytes that do not fit are not sent.
  if (!speech.empty()) (void)!send(peer.socket.get(), speech.data(), speech.size(), MSG_NOSIGNAL);
  peer.spoke = true;
  ++connected_;
  ++connections_;
  epoll_event event = {};
  event.events = EPOLLRDHUP;
  event.data.u64 = index;
  epoll_ctl(poll_.get(), EPOLL_CTL_MOD, peer.socket.get(), &event);
}

}  // namespace kvlink::testing
