// A session and what a peer may do to it, between what its user does: each operation must complete exactly once, and
// after the end no memory may be held. The input is a list of steps: a byte that says which, and what the step takes.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/session.h"

namespace kvlink::transport {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

class PlainBuffer : public RegisteredBuffer {
 public:
  explicit PlainBuffer(int64_t bytes) : PlainBuffer(std::vector<std::byte>(bytes)) {}

 private:
  explicit PlainBuffer(std::vector<std::byte> memory)
      : RegisteredBuffer(memory.data(), static_cast<int64_t>(memory.size()), {}), memory_(std::move(memory)) {}
  const std::vector<std::byte> memory_;
};

// Keeps transfers under way until the input, or the end, lets them go.
class PlainWire : public Wire {
 public:
  explicit PlainWire(ProgressThread* thread) : thread_(thread) {}
  void Attach(std::weak_ptr<Session>) override {}
  void SendFrame(std::string frame, std::function<void()> taken) override {
    Require(ParseFrame(frame).ok());
    thread_->Defer(std::move(taken));
  }
  void SendPayload(std::string frame, const Slice&, std::function<void(const absl::Status&)> done) override {
    Require(ParseFrame(frame).ok());
    under_way_.push_back(std::move(done));
  }
  void Keep(std::function<void(const absl::Status&)> done) { under_way_.push_back(std::move(done)); }
  void Close(bool, std::function<void()> closed) override { closed_ = std::move(closed); }
  bool Owns(const RegisteredBuffer&) const override { return true; }
  std::string peer() const override { return "peer"; }
  bool EndOne(const absl::Status& status) {
    if (under_way_.empty()) return false;
    const auto done = std::move(under_way_.front());
    under_way_.pop_front();
    done(status);
    return true;
  }
  void EndAll() {
    while (EndOne(absl::UnavailableError("closed"))) {
    }
    Require(closed_ != nullptr);
    std::exchange(closed_, nullptr)();
  }

 private:
  ProgressThread* const thread_;
  std::deque<std::function<void(const absl::Status&)>> under_way_;
  std::function<void()> closed_;
};

class PlainOffer : public Offer {
 public:
  PlainOffer(PlainWire* wire, int64_t bytes) : wire_(wire), bytes_(bytes) {}
  int64_t bytes() const override { return bytes_; }
  void Receive(const Slice& into, std::function<void(const absl::Status&)> done) override {
    Require(into.length == bytes_);
    std::memset(into.data(), 1, into.length);
    wire_->Keep(std::move(done));
  }

 private:
  PlainWire* const wire_;
  const int64_t bytes_;
};

class Nobody : public ConnectionEvents {
 public:
  void OnMessage(absl::string_view) override { Require(!closed_); }
  void OnClosed(const absl::Status&) override { Require(!std::exchange(closed_, true)); }

 private:
  bool closed_ = false;
};

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  std::string Bytes() {
    const size_t n = std::min<size_t>(size_, Byte() | Byte() << 8);
    std::string bytes(reinterpret_cast<const char*>(data_), std::min(n, size_));
    data_ += bytes.size();
    size_ -= bytes.size();
    return bytes;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

void Run(ProgressThread* thread, Input input) {
  constexpr int64_t kBuffer = 300;
  int64_t open = 0;
  static Counters counters;  // outlives what deferred work may hold of the session
  static bool gone;
  gone = false;
  auto buffer = std::make_shared<PlainBuffer>(kBuffer);
  auto made = std::make_unique<PlainWire>(thread);
  PlainWire* const wire = made.get();
  Session::Options options{.thread = thread, .counters = &counters, .heartbeat = absl::Hours(1), .window_bytes = 200};
  options.on_gone = [](Session*) { gone = true; };
  auto session = std::make_shared<Session>(options, std::move(made));
  session->StartServer([](std::shared_ptr<Connection>) { return std::make_shared<Nobody>(); });
  uint32_t sequence = 0;
  const auto frame = [&](uint8_t kind, const std::string& body) {
    session->OnFrame(FrameHeader(static_cast<FrameKind>(kind), sequence++, session->token(), body.size()) + body);
  };
  if (input.Byte() % 8 != 0) frame(1, HelloBody({7, 2000}));
  std::vector<std::unique_ptr<bool>> completed;
  const auto completion = [&] {
    ++open;
    completed.push_back(std::make_unique<bool>(false));
    return [&open, seen = completed.back().get()](const absl::Status&, auto...) {
      Require(!std::exchange(*seen, true));
      --open;
    };
  };
  while (!input.empty()) {
    switch (input.Byte() % 9) {
      case 0:
        session->OnFrame(input.Bytes());
        break;
      case 1: {
        const uint8_t kind = input.Byte();
        frame(kind, input.Bytes());
        break;
      }
      case 2: {
        const uint64_t id = input.Byte(), said = input.Byte();
        PlainOffer offer(wire, input.Byte());
        const std::string body = GrantBody({{id, said}});
        session->OnPayload(FrameHeader(FrameKind::kPayload, 0, session->token(), body.size()) + body, &offer);
        break;
      }
      case 3: {
        const uint64_t id = input.Byte();
        const int64_t offset = input.Byte(), length = input.Byte();
        session->PostReceive(id, {buffer, offset, length}, absl::InfiniteFuture(), completion());
        break;
      }
      case 4: {
        const uint64_t id = input.Byte();
        const int64_t offset = input.Byte(), length = input.Byte();
        session->Send(id, {buffer, offset, length}, absl::InfiniteFuture(), completion());
        break;
      }
      case 5:
        session->CancelReceive(input.Byte());
        break;
      case 6:
        session->CancelSend(input.Byte());
        break;
      case 7:
        wire->EndOne(absl::OkStatus());
        break;
      case 8: {
        const uint64_t id = input.Byte(), bytes = input.Byte();
        frame(3, GrantBody({{id, bytes}}));
        break;
      }
    }
  }
  session->Shut(absl::OkStatus(), "local", true);
  wire->EndAll();
  Require(open == 0 && gone && buffer.use_count() == 1 && counters.quarantined_bytes == 0);
}

}  // namespace
}  // namespace kvlink::transport

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvlink::transport;
  static ProgressThread* const thread = ProgressThread::Start(nullptr)->release();  // for the life of the program
  thread->Run([&] { Run(thread, Input(data, size)); });
  thread->Run([] {});
  return 0;
}
