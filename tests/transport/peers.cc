#include "tests/transport/peers.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "tests/support/transport/loopback/loopback.h"
#include "transport/grpc/grpc.h"
#include "transport/local/local.h"
#include "transport/ucx/ucx.h"

namespace kvlink::testing {

using transport::Slice;
using transport::Transport;

void Inbox::OnMessage(absl::string_view message) {
  MutexLock lock(&mutex_);
  messages_.emplace_back(message);
  changed_.SignalAll();
}

void Inbox::OnClosed(const absl::Status& why) {
  MutexLock lock(&mutex_);
  why_ = why;
  ++closings_;
  changed_.SignalAll();
}

std::optional<std::string> Inbox::Next() {
  const absl::Time limit = Patience();
  MutexLock lock(&mutex_);
  while (messages_.empty()) {
    if (closings_ > 0 || !changed_.WaitUntil(&mutex_, limit)) return std::nullopt;
  }
  std::string message = std::move(messages_.front());
  messages_.pop_front();
  return message;
}

absl::Status Inbox::Closed() {
  const absl::Time limit = Patience();
  MutexLock lock(&mutex_);
  while (closings_ == 0) {
    if (!changed_.WaitUntil(&mutex_, limit)) return absl::InternalError("OnClosed did not come");
  }
  return why_;
}

bool Inbox::closed() { return closings() > 0; }

int Inbox::closings() {
  MutexLock lock(&mutex_);
  return closings_;
}

void Completion::Set(State* state, const absl::Status& status, int64_t bytes) {
  MutexLock lock(&state->mutex);
  if (state->done) {
    std::fprintf(stderr, "an operation completed twice: %s\n", status.ToString().c_str());
    std::abort();
  }
  state->done = true;
  state->status = status;
  state->bytes = bytes;
  state->changed.SignalAll();
}

std::function<void(const absl::Status&)> Completion::ForSend() const {
  return [state = state_](const absl::Status& status) { Set(state.get(), status, 0); };
}

std::function<void(const absl::Status&, int64_t)> Completion::ForReceive() const {
  return [state = state_](const absl::Status& status, int64_t bytes) { Set(state.get(), status, bytes); };
}

absl::Status Completion::Wait() const {
  const absl::Time limit = Patience();
  MutexLock lock(&state_->mutex);
  while (!state_->done) {
    if (!state_->changed.WaitUntil(&state_->mutex, limit)) return absl::InternalError("no completion came");
  }
  return state_->status;
}

bool Completion::done() const {
  MutexLock lock(&state_->mutex);
  return state_->done;
}

int64_t Completion::bytes() const {
  MutexLock lock(&state_->mutex);
  return state_->bytes;
}

struct WatchedSlice::Use {
  Mutex mutex;
  CondVar changed;
  bool used ABSL_GUARDED_BY(mutex) = false;
};

WatchedSlice::WatchedSlice(std::shared_ptr<transport::RegisteredBuffer> buffer, int64_t offset, int64_t length)
    : slice_{std::move(buffer), offset, length}, use_(std::make_shared<Use>()) {}

Slice WatchedSlice::Take() {
  {
    MutexLock lock(&use_->mutex);
    use_->used = true;
  }
  transport::RegisteredBuffer* const buffer = slice_.buffer.get();
  Slice slice = slice_;
  slice.buffer = std::shared_ptr<transport::RegisteredBuffer>(
      buffer, [use = use_, keep = slice_.buffer](transport::RegisteredBuffer*) {
        MutexLock lock(&use->mutex);
        use->used = false;
        use->changed.SignalAll();
      });
  return slice;
}

bool WatchedSlice::free() const {
  MutexLock lock(&use_->mutex);
  return !use_->used;
}

bool WatchedSlice::WaitFree() const {
  const absl::Time limit = Patience();
  MutexLock lock(&use_->mutex);
  while (use_->used) {
    if (!use_->changed.WaitUntil(&use_->mutex, limit)) return false;
  }
  return true;
}

Server::Server(Transport* transport, const std::string& address) {
  auto listener = transport->Listen(address, [state = state_](std::shared_ptr<transport::Connection> connection) {
    auto inbox = std::make_shared<Inbox>();
    MutexLock lock(&state->mutex);
    state->accepted.push_back({std::move(connection), inbox});
    state->changed.SignalAll();
    return inbox;
  });
  EXPECT_TRUE(listener.ok()) << listener.status();
  if (listener.ok()) listener_ = *std::move(listener);
}

Server::Accepted Server::Next() {
  const absl::Time limit = Patience();
  MutexLock lock(&state_->mutex);
  while (state_->accepted.empty()) {
    if (!state_->changed.WaitUntil(&state_->mutex, limit)) return {};
  }
  Accepted next = std::move(state_->accepted.front());
  state_->accepted.pop_front();
  return next;
}

std::string CarrierName(Carrier carrier) {
  switch (carrier) {
    case Carrier::kLoopback:
      return "loopback";
    case Carrier::kUcx:
      return "ucx";
    case Carrier::kGrpc:
      return "grpc";
    case Carrier::kLocal:
      return "local";
  }
  return "";
}

std::string NewAddress(Carrier carrier) {
  if (carrier != Carrier::kLocal) return "127.0.0.1:0";
  static std::atomic<int> count{0};
  return (std::filesystem::temp_directory_path() / absl::StrCat("kvlink-", getpid(), "-", ++count, ".socket")).string();
}

namespace {

absl::StatusOr<std::unique_ptr<Transport>> Make(Carrier carrier, const transport::TransportOptions& options) {
  static const auto network = transport::NewLoopbackNetwork();
  switch (carrier) {
    case Carrier::kLoopback:
      return transport::NewLoopbackTransport(network, options);
    case Carrier::kUcx:
      setenv("UCX_NET_DEVICES", "lo", 0);
      return transport::NewUcxTransport(options);
    case Carrier::kGrpc:
      return transport::NewGrpcTransport(options);
    case Carrier::kLocal:
      return transport::NewLocalTransport(options);
  }
  return absl::InternalError("no such carrier");
}

}  // namespace

std::unique_ptr<Transport> NewTransport(Carrier carrier, const transport::TransportOptions& options) {
  auto made = Make(carrier, options);
  if (!made.ok()) {
    std::fprintf(stderr, "no transport: %s\n", made.status().ToString().c_str());
    std::abort();
  }
  return *std::move(made);
}

Peers::Peers(Carrier carrier, const transport::TransportOptions& options)
    : server_transport(NewTransport(carrier, options)),
      client_transport(NewTransport(carrier, options)),
      server(std::make_unique<Server>(server_transport.get(), NewAddress(carrier))),
      client_inbox(std::make_shared<Inbox>()) {
  auto connected = client_transport->Connect(server->address(), client_inbox, Patience());
  EXPECT_TRUE(connected.ok()) << connected.status();
  if (connected.ok()) client = *std::move(connected);
  Server::Accepted taken = server->Next();
  accepted = std::move(taken.connection);
  server_inbox = std::move(taken.inbox);
}

std::multiset<std::string> Listening() {
  std::set<std::string> sockets;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (absl::StartsWith(target, "socket:[")) sockets.insert(target.substr(8, target.size() - 9));
  }
  std::multiset<std::string> addresses;
  for (const char* table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream file(table);
    for (std::string line; std::getline(file, line);) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
      if (words.size() < 10 || words[3] != "0A" || sockets.count(words[9]) == 0) continue;
      absl::string_view address = absl::string_view(words[1]).substr(0, words[1].find(':'));
      absl::ConsumePrefix(&address, "0000000000000000FFFF0000");  // IPv4 in IPv6
      addresses.emplace(address);
    }
  }
  return addresses;
}

namespace {

uint64_t Word(uint64_t seed, int64_t at) {
  return (seed * 0x9e3779b97f4a7c15) ^ (static_cast<uint64_t>(at) * 0xd6e8feb86659fd93);
}

}  // namespace

void Fill(Slice slice, uint64_t seed) {
  std::byte* const data = slice.data();
  for (int64_t at = 0; at < slice.length; at += 8) {
    const uint64_t word = Word(seed, at);
    std::memcpy(data + at, &word, std::min<int64_t>(8, slice.length - at));
  }
}

bool Check(const Slice& slice, uint64_t seed) {
  const std::byte* const data = slice.data();
  for (int64_t at = 0; at < slice.length; at += 8) {
    const uint64_t word = Word(seed, at);
    if (std::memcmp(data + at, &word, std::min<int64_t>(8, slice.length - at)) != 0) return false;
  }
  return true;
}

}  // namespace kvlink::testing
