// Speaks the Redis protocol and runs the scripts of bench/peers; peers that are not installed are skipped by name.
#include "bench/transfer/transfer_peers.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "base/status.h"
#include "bench/bench_common.h"

namespace kvlink::bench {
namespace {

absl::Status Failed(absl::string_view what) { return absl::UnavailableError(absl::StrCat("redis: ", what)); }

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// A port that is currently free.
uint16_t FreePort() {
  const Descriptor probe(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  bind(probe.get(), reinterpret_cast<sockaddr*>(&address), length);
  getsockname(probe.get(), reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.sin_port);
}

// The subset of the Redis protocol (RESP) for GET and SET.
class Redis {
 public:
  absl::Status Connect(uint16_t port, absl::Time deadline) {
    const sockaddr_in address = Loopback(port);
    for (;;) {
      socket_ = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) break;
      if (SteadyNow() > deadline) return Failed("the server does not answer");
      absl::SleepFor(absl::Milliseconds(20));
    }
    const int one = 1;
    setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return absl::OkStatus();
  }
  absl::Status Set(absl::string_view key, const std::byte* value, int64_t bytes) {
    KVLINK_RETURN_IF_ERROR(
        Write(absl::StrCat("*3\r\n$3\r\nSET\r\n$", key.size(), "\r\n", key, "\r\n$", bytes, "\r\n")));
    KVLINK_RETURN_IF_ERROR(Write(absl::string_view(reinterpret_cast<const char*>(value), static_cast<size_t>(bytes))));
    KVLINK_RETURN_IF_ERROR(Write("\r\n"));
    KVLINK_ASSIGN_OR_RETURN(const std::string answer, ReadLine());
    return answer == "+OK" ? absl::OkStatus() : Failed(answer);
  }
  absl::Status AskFor(absl::string_view keys) { return Write(keys); }
  static std::string Get(absl::string_view key) {
    return absl::StrCat("*2\r\n$3\r\nGET\r\n$", key.size(), "\r\n", key, "\r\n");
  }
  // Reads the answer to a GET, of exactly `bytes`.
  absl::Status ReadValue(std::byte* into, int64_t bytes) {
    KVLINK_ASSIGN_OR_RETURN(const std::string head, ReadLine());
    if (head != absl::StrCat("$", bytes)) return Failed(absl::StrCat("answered ", head));
    char* at = reinterpret_cast<char*>(into);
    int64_t left = bytes;
    const int64_t buffered = std::min<int64_t>(left, static_cast<int64_t>(buffer_.size()));
    std::memcpy(at, buffer_.data(), static_cast<size_t>(buffered));
    buffer_.erase(0, static_cast<size_t>(buffered));
    at += buffered;
    left -= buffered;
    while (left > 0) {
      const ssize_t some = recv(socket_.get(), at, static_cast<size_t>(left), 0);
      if (some <= 0) return Failed("the connection ended");
      at += some;
      left -= some;
    }
    return ReadLine().status();
  }

 private:
  absl::Status Write(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t some = send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (some <= 0) return Failed("the connection ended");
      bytes.remove_prefix(static_cast<size_t>(some));
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> ReadLine() {
    for (;;) {
      const size_t end = buffer_.find("\r\n");
      if (end != std::string::npos) {
        const std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 2);
        return line;
      }
      char some[256];
      const ssize_t length = recv(socket_.get(), some, sizeof(some), 0);
      if (length <= 0) return Failed("the connection ended");
      buffer_.append(some, static_cast<size_t>(length));
    }
  }

  Descriptor socket_;
  std::string buffer_;
};

class RedisMover : public Mover {
 public:
  RedisMover(std::unique_ptr<ServingProcess> server, Redis redis, int64_t ring_bytes)
      : server_(std::move(server)), redis_(std::move(redis)), ring_(ring_bytes), place_(ring_bytes) {}
  std::string name() const override { return "redis GET"; }
  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override {
    const int64_t at = place_.Next(shape.bytes());
    const double start = Now();
    std::string keys;
    for (int64_t i = 0; i < shape.slabs(); ++i) keys += Redis::Get(absl::StrCat(at + i * shape.slab_bytes));
    KVLINK_RETURN_IF_ERROR(redis_.AskFor(keys));
    MoveTime time;
    for (int64_t i = 0; i < shape.slabs(); ++i) {
      KVLINK_RETURN_IF_ERROR(redis_.ReadValue(ring_.as<std::byte>() + at + i * shape.slab_bytes, shape.slab_bytes));
      if (i == 0) time.first = Now() - start;
    }
    time.whole = Now() - start;
    return time;
  }
  absl::Status Fill(const EncodingShape& shape, int64_t ring_bytes) {
    FillRing(ring_.as<std::byte>(), ring_bytes);
    for (int64_t at = 0; at + shape.bytes() <= ring_bytes; at += shape.bytes()) {
      for (int64_t i = 0; i < shape.slabs(); ++i) {
        const int64_t slab = at + i * shape.slab_bytes;
        KVLINK_RETURN_IF_ERROR(redis_.Set(absl::StrCat(slab), ring_.as<std::byte>() + slab, shape.slab_bytes));
      }
    }
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<ServingProcess> server_;
  Redis redis_;
  Memory ring_;
  RingPlace place_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Mover>> NewRedisMover(const EncodingShape& shape, int64_t ring_bytes) {
  if (std::system("command -v redis-server >/dev/null 2>&1") != 0) {
    return absl::NotFoundError("redis-server is not installed (package redis-server)");
  }
  std::unique_ptr<ServingProcess> server;
  Redis redis;
  absl::Status connected;
  // A free port may be taken before the server starts.
  for (int attempt = 0; attempt < 3 && (attempt == 0 || !connected.ok()); ++attempt) {
    const uint16_t port = FreePort();
    KVLINK_ASSIGN_OR_RETURN(
        server, ServingProcess::Start({"redis-server", "--bind", "127.0.0.1", "--port", absl::StrCat(port), "--save",
                                       "", "--appendonly", "no", "--logfile", "", "--dir", "/tmp"}));
    connected = redis.Connect(port, SteadyNow() + absl::Seconds(5));
  }
  KVLINK_RETURN_IF_ERROR(connected);
  auto mover = std::make_unique<RedisMover>(std::move(server), std::move(redis), ring_bytes);
  KVLINK_RETURN_IF_ERROR(mover->Fill(shape, ring_bytes));
  return mover;
}

absl::StatusOr<std::string> RunPeer(const std::string& command) {
  FILE* const output = popen(command.c_str(), "r");
  if (output == nullptr) return absl::UnavailableError(absl::StrCat(command, " does not start"));
  std::string line;
  for (int letter = fgetc(output); letter != EOF; letter = fgetc(output)) line.push_back(static_cast<char>(letter));
  const int status = pclose(output);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) return absl::NotFoundError("what it needs is not installed");
  if (status != 0) return absl::UnavailableError(absl::StrCat(command, " failed"));
  return line;
}

}  // namespace kvlink::bench
