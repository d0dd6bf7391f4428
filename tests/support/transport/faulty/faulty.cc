#include "tests/support/transport/faulty/faulty.h"

#include <array>
#include <random>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "tests/support/transport/faulty/faulty_channel.h"
#include "transport/progress.h"

namespace kvlink::transport {
namespace {

// Decides which fault comes next.
class Dice {
 public:
  explicit Dice(FaultOptions options) : options_(std::move(options)), random_(options_.seed) {}

  struct Throw {
    Fault fault = Fault::kNone;
    uint64_t draw = 0;
  };
  Throw Next(bool payload) {
    MutexLock lock(&mutex_);
    const int64_t number = next_[payload]++;
    const double chance = std::uniform_real_distribution<double>()(random_);
    Throw result{Fault::kNone, random_()};
    if (!enabled_) return result;
    const auto told = options_.schedule ? options_.schedule(payload, number) : absl::nullopt;
    result.fault = told ? *told : ByRates(payload ? options_.payloads : options_.messages, chance);
    ++struck_[result.fault];
    return result;
  }
  void Enable(bool on) {
    MutexLock lock(&mutex_);
    enabled_ = on;
  }
  std::map<Fault, int64_t> struck() const {
    MutexLock lock(&mutex_);
    return struck_;
  }
  const FaultOptions& options() const { return options_; }

 private:
  static Fault ByRates(const FaultRates& rates, double chance) {
    const std::array<std::pair<double, Fault>, kFaults - 1> faults = {{{rates.drop, Fault::kDrop},
                                                                       {rates.delay, Fault::kDelay},
                                                                       {rates.reorder, Fault::kReorder},
                                                                       {rates.corrupt, Fault::kCorrupt},
                                                                       {rates.cut, Fault::kCut},
                                                                       {rates.freeze, Fault::kFreeze}}};
    for (const auto& [rate, fault] : faults) {
      if (chance < rate) return fault;
      chance -= rate;
    }
    return Fault::kNone;
  }

  const FaultOptions options_;
  mutable Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  int64_t next_[2] ABSL_GUARDED_BY(mutex_) = {0, 0};
  bool enabled_ ABSL_GUARDED_BY(mutex_) = true;
  std::map<Fault, int64_t> struck_ ABSL_GUARDED_BY(mutex_);
};

class FaultyConnection : public Connection {
 public:
  FaultyConnection(ProgressThread* thread, std::shared_ptr<Dice> dice, std::shared_ptr<FaultyChannel> channel)
      : thread_(thread), dice_(std::move(dice)), channel_(std::move(channel)) {}
  ~FaultyConnection() override { Close(); }

  absl::Status SendMessage(absl::string_view message) override {
    if (message.empty() || static_cast<int64_t>(message.size()) > kMaxMessageBytes) {
      return absl::InvalidArgumentError(absl::StrCat("message of ", message.size(), " bytes"));
    }
    if (channel_->closed()) return absl::UnavailableError("the connection is closed");
    const Dice::Throw thrown = dice_->Next(false);
    thread_->Post([channel = channel_, message = std::string(message), thrown]() mutable {
      channel->SendMessage(std::move(message), thrown.fault, thrown.draw);
    });
    return absl::OkStatus();
  }
  void PostReceive(uint64_t id, Slice into, absl::Time deadline, Received done) override {
    thread_->Post([channel = channel_, id, into = std::move(into), deadline, done = std::move(done)]() mutable {
      channel->PostReceive(id, std::exchange(into, {}), deadline, std::move(done));
    });
  }
  void Send(uint64_t id, Slice from, absl::Time deadline, Sent done) override {
    const Dice::Throw thrown = dice_->Next(true);
    thread_->Post([channel = channel_, id, from = std::move(from), deadline, done = std::move(done), thrown]() mutable {
      channel->Send(id, std::exchange(from, {}), deadline, std::move(done), thrown.fault, thrown.draw);
    });
  }
  void CancelReceive(uint64_t id) override {
    thread_->Post([channel = channel_, id] { channel->CancelReceive(id); });
  }
  void CancelSend(uint64_t id) override {
    thread_->Post([channel = channel_, id] { channel->CancelSend(id); });
  }
  void Close() override {
    thread_->Post([channel = channel_] { channel->Close(); });
  }
  std::string peer() const override { return channel_->peer(); }

 private:
  ProgressThread* const thread_;
  const std::shared_ptr<Dice> dice_;
  const std::shared_ptr<FaultyChannel> channel_;
};

class Decorator : public FaultyTransport {
 public:
  Decorator(std::unique_ptr<Transport> inner, std::unique_ptr<ProgressThread> thread, FaultOptions options)
      : inner_(std::move(inner)), thread_(std::move(thread)), dice_(std::make_shared<Dice>(std::move(options))) {}
  ~Decorator() override {
    std::vector<std::weak_ptr<FaultyChannel>> channels;
    {
      MutexLock lock(&mutex_);
      channels.swap(channels_);
    }
    // The inner connections are destroyed before their transport; its last events are passed on before the thread ends.
    thread_->Run([&channels] {
      for (const auto& weak : channels) {
        if (const auto channel = weak.lock()) channel->Abandon();
      }
    });
    inner_ = nullptr;
    thread_->Stop();
  }

  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Allocate(int64_t bytes) override { return inner_->Allocate(bytes); }
  absl::StatusOr<std::shared_ptr<RegisteredBuffer>> Register(std::byte* data, int64_t bytes, const MemoryPlace& place,
                                                             std::shared_ptr<void> owner) override {
    return inner_->Register(data, bytes, place, std::move(owner));
  }
  absl::StatusOr<std::unique_ptr<Listener>> Listen(absl::string_view address, Accept accept) override {
    return inner_->Listen(address,
                          [this, accept = std::move(accept)](
                              std::shared_ptr<Connection> connection) -> std::shared_ptr<ConnectionEvents> {
                            const auto channel = NewChannel();
                            channel->Bind(std::move(connection));
                            auto events = accept(std::make_shared<FaultyConnection>(thread_.get(), dice_, channel));
                            return events == nullptr ? nullptr : channel->Wrap(std::move(events));
                          });
  }
  absl::StatusOr<std::shared_ptr<Connection>> Connect(absl::string_view address,
                                                      std::shared_ptr<ConnectionEvents> events,
                                                      absl::Time deadline) override {
    return ConnectAs("", address, std::move(events), deadline);
  }
  absl::StatusOr<std::shared_ptr<Connection>> ConnectAs(absl::string_view caller, absl::string_view address,
                                                        std::shared_ptr<ConnectionEvents> events,
                                                        absl::Time deadline) override {
    const auto channel = NewChannel();
    KVLINK_ASSIGN_OR_RETURN(auto inner, inner_->ConnectAs(caller, address, channel->Wrap(std::move(events)), deadline));
    channel->Bind(std::move(inner));
    return std::make_shared<FaultyConnection>(thread_.get(), dice_, channel);
  }
  TransportStats Stats() const override { return inner_->Stats(); }
  void Enable(bool on) override { dice_->Enable(on); }
  std::map<Fault, int64_t> struck() const override { return dice_->struck(); }

 private:
  std::shared_ptr<FaultyChannel> NewChannel() {
    auto channel =
        std::make_shared<FaultyChannel>(thread_.get(), inner_.get(), dice_->options().delay, dice_->options().freeze);
    MutexLock lock(&mutex_);
    std::erase_if(channels_, [](const auto& weak) { return weak.expired(); });
    channels_.push_back(channel);
    return channel;
  }

  std::unique_ptr<Transport> inner_;
  const std::unique_ptr<ProgressThread> thread_;
  const std::shared_ptr<Dice> dice_;
  Mutex mutex_;
  std::vector<std::weak_ptr<FaultyChannel>> channels_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<FaultyTransport>> NewFaultyTransport(std::unique_ptr<Transport> inner,
                                                                    FaultOptions options) {
  KVLINK_ASSIGN_OR_RETURN(auto thread, ProgressThread::Start(nullptr));
  return std::make_unique<Decorator>(std::move(inner), std::move(thread), std::move(options));
}

}  // namespace kvlink::transport
