// Reads proceed in rounds. A round requests everything left, as many at a time as the node allows, and pulls what
// cannot be mapped; failures worth a retry form the next round, together. So an absent node costs the patience of one
// read, however many are wanted.
#include "store/client/reads.h"

#include <algorithm>
#include <deque>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "proto/data.h"
#include "store/client/data/mapped_lease.h"
#include "store/client/data/pull.h"
#include "store/client/data/signal.h"

namespace kvlink::store::client {
namespace {

constexpr size_t kMaxLeasesAsked = 256;  // leases on mapped memory, not answered yet

// Whether the encoding may still be pulled over a transport although it cannot be mapped.
bool MappingFailed(const absl::Status& status) {
  if (MovedEpoch(status).has_value()) return false;
  return absl::IsUnavailable(status) || absl::IsFailedPrecondition(status);
}

class Reads : public PendingReads {
 public:
  Reads(Route* route, std::shared_ptr<Region> region, absl::string_view ns, Codec codec,
        absl::Span<const ReadRequest> requests, absl::Time deadline, const Notify& notify)
      : route_(route),
        region_(std::move(region)),
        deadline_(deadline),
        patience_(route->Patience(deadline)),
        signal_(std::make_shared<Signal>(notify)),
        round_(requests.size()) {
    for (const ReadRequest& request : requests) {
      addresses_.push_back({std::string(ns), request.identity, codec, request.etag});
      results_.emplace_back(absl::UnavailableError("not asked for yet"));
    }
    std::iota(round_.begin(), round_.end(), size_t{0});
    left_.assign(round_.begin(), round_.end());
  }
  ~Reads() override {
    signal_->Mute();
    again_alarm_ = nullptr;
    for (const Asked& one : asked_) {
      if (one.pull != nullptr) one.pull->Release();
    }
  }

  absl::StatusOr<Leases> Wait(absl::Time deadline) override;
  // Sends the first requests.
  void Begin() {
    Step();
    if (over_) signal_->Raise();
  }

 private:
  struct Asked {
    size_t index = 0;
    std::shared_ptr<NodeConnection> connection;
    std::unique_ptr<MappedLease> lease;  // exactly one of the two is set
    std::shared_ptr<Pull> pull;
    bool answered() const { return lease != nullptr ? lease->answered() : pull->answered(); }
  };
  // The outcome of a dial, left by the dialling thread.
  struct Dialled {
    Mutex mutex;
    std::optional<absl::StatusOr<Route::Opened>> opened ABSL_GUARDED_BY(mutex);
  };

  // Does everything that can be done without blocking.
  void Step();
  // Returns false if no connection is open yet.
  bool Open();
  // Return whether there was anything to do.
  bool AskSome();
  bool StartAnswered();
  void AskOne(size_t index);
  void StartOne(Asked asked);
  void NotMapped(size_t index, const NodeConnection& connection, const absl::Status& status);
  void EndRound();
  void Expire();

  Route* const route_;
  const std::shared_ptr<Region> region_;
  const absl::Time deadline_, patience_;
  const std::shared_ptr<Signal> signal_;
  std::vector<EncodingAddress> addresses_;
  Leases results_;
  std::vector<size_t> round_;  // encodings of this round
  std::deque<size_t> left_;    // of them, those not requested yet
  std::vector<Asked> asked_;
  std::vector<size_t> unmapped_;  // of them, those to be pulled
  Need need_ = Need::kMessages;
  std::optional<Route::Opened> opened_;
  std::shared_ptr<Dialled> dialled_;  // set while a thread dials
  int attempt_ = 0;
  absl::Time again_ = absl::InfinitePast();  // when the round begins
  std::unique_ptr<Alarm> again_alarm_;
  bool over_ = false;
};

bool Reads::Open() {
  if (opened_.has_value()) return true;
  if (dialled_ == nullptr) {
    opened_ = route_->Present(need_);
    if (opened_.has_value()) return true;
    dialled_ = std::make_shared<Dialled>();
    route_->Dial(need_, [weak = std::weak_ptr<Dialled>(dialled_),
                         signal = signal_](const absl::StatusOr<Route::Opened>& opened) {
      const auto dialled = weak.lock();
      if (dialled == nullptr) return;
      {
        MutexLock lock(&dialled->mutex);
        dialled->opened = opened;
      }
      signal->Raise();
    });
  }
  absl::Status failed;
  {
    MutexLock lock(&dialled_->mutex);
    if (!dialled_->opened.has_value()) return false;
    failed = dialled_->opened->status();
    if (failed.ok()) opened_ = **std::exchange(dialled_->opened, std::nullopt);
  }
  dialled_ = nullptr;
  if (failed.ok()) return true;
  for (const size_t index : left_) results_[index] = failed;
  left_.clear();
  return true;
}

void Reads::AskOne(size_t index) {
  const auto& connection = opened_->connection;
  if (opened_->path == nullptr) {
    auto lease = MappedLease::Ask(connection, addresses_[index], deadline_, signal_);
    if (!lease.ok()) return NotMapped(index, *connection, lease.status());
    asked_.push_back({index, connection, *std::move(lease), nullptr});
    return;
  }
  TransportMemory& memory = opened_->path->memory();
  const bool reached = region_ != nullptr && region_->ReachedBy(memory.transport());
  const Pull::Context context{&memory.receive_memory(), reached ? region_ : nullptr, &route_->resources().verifier(),
                              &route_->counters(), route_->options().transfer_timeout};
  auto pull = Pull::Ask(context, connection, addresses_[index], {}, signal_);
  if (pull.ok()) {
    asked_.push_back({index, connection, nullptr, *std::move(pull)});
  } else {
    results_[index] = route_->Checked(*connection, pull.status());
  }
}

bool Reads::AskSome() {
  bool any = false;
  while (!left_.empty()) {
    const bool room =
        opened_->path == nullptr ? asked_.size() < kMaxLeasesAsked : opened_->connection->pulls().TryTake(signal_);
    if (!room) break;
    AskOne(left_.front());
    left_.pop_front();
    any = true;
  }
  return any;
}

void Reads::StartOne(Asked asked) {
  if (asked.pull != nullptr) {
    const absl::Status started = asked.pull->Start({}, deadline_);
    if (started.ok()) {
      results_[asked.index] = LeaseOver(std::move(asked.pull));
    } else {
      results_[asked.index] = route_->Checked(*asked.connection, started);
    }
    return;
  }
  const absl::Status started = asked.lease->Start(addresses_[asked.index], deadline_);
  if (!started.ok()) return NotMapped(asked.index, *asked.connection, started);
  ++route_->counters().mapped_leases;
  results_[asked.index] = std::move(asked.lease);
}

bool Reads::StartAnswered() {
  bool any = false;
  for (size_t i = 0; i < asked_.size();) {
    if (!asked_[i].answered()) {
      ++i;
      continue;
    }
    Asked answered = std::move(asked_[i]);
    asked_.erase(asked_.begin() + static_cast<ptrdiff_t>(i));
    StartOne(std::move(answered));
    any = true;
  }
  return any;
}

void Reads::NotMapped(size_t index, const NodeConnection& connection, const absl::Status& status) {
  if (absl::IsUnauthenticated(status)) {
    results_[index] = route_->Checked(connection, status);
  } else if (!MappingFailed(status)) {
    results_[index] = status;
  } else if (route_->options().carrier == Carrier::kMapped) {
    results_[index] = absl::UnavailableError(status.message());
  } else {
    unmapped_.push_back(index);
  }
}

void Reads::EndRound() {
  opened_.reset();
  if (!unmapped_.empty()) {
    left_.assign(unmapped_.begin(), unmapped_.end());
    unmapped_.clear();
    need_ = Need::kPayloads;
    return;
  }
  std::vector<size_t> failed;
  absl::Status worst;
  for (const size_t index : round_) {
    const absl::Status& status = results_[index].status();
    if (!absl::IsUnavailable(status) && !absl::IsResourceExhausted(status)) continue;
    // A failure not worth a retry is final.
    if (absl::IsResourceExhausted(status) && !RetryAfter(status).has_value()) continue;
    failed.push_back(index);
    worst = status;
  }
  std::optional<absl::Duration> wait;
  if (!failed.empty()) {
    wait = route_->retries().Wait(worst, attempt_++, patience_);
  } else if (std::any_of(round_.begin(), round_.end(), [this](size_t index) { return results_[index].ok(); })) {
    route_->retries().Succeeded();
  }
  over_ = !wait.has_value();
  if (over_) return;
  round_ = std::move(failed);
  left_.assign(round_.begin(), round_.end());
  need_ = Need::kMessages;
  again_ = SteadyNow() + *wait;
  if (again_alarm_ == nullptr) {
    again_alarm_ = std::make_unique<Alarm>(&route_->resources().timer(), [signal = signal_] {
      signal->Raise();
      return absl::InfiniteFuture();
    });
  }
  again_alarm_->Set(again_);
}

void Reads::Step() {
  while (!over_ && SteadyNow() >= again_) {
    const bool open = left_.empty() || Open();
    const bool asked = open && AskSome();
    const bool started = StartAnswered();
    if (left_.empty() && asked_.empty()) {
      EndRound();
    } else if (!asked && !started) {
      return;
    }
  }
}

void Reads::Expire() {
  const absl::Status late = absl::DeadlineExceededError("the node did not answer the read in time");
  for (const Asked& one : asked_) {
    if (one.pull != nullptr) one.pull->Release();
    results_[one.index] = late;
  }
  asked_.clear();
  for (const size_t index : left_) results_[index] = late;
  for (const size_t index : unmapped_) results_[index] = late;
  over_ = true;
}

absl::StatusOr<PendingReads::Leases> Reads::Wait(absl::Time deadline) {
  while (true) {
    Step();
    if (over_) return std::move(results_);
    if (signal_->Wait(std::min(deadline, deadline_))) continue;
    if (SteadyNow() < deadline_) return absl::DeadlineExceededError("the node has not answered all reads yet");
    Expire();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<PendingReads>> AskReads(Route* route, std::shared_ptr<Region> region,
                                                       absl::string_view ns, Codec codec,
                                                       absl::Span<const ReadRequest> requests, absl::Time deadline,
                                                       const Notify& notify) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("read: the deadline has passed");
  auto reads = std::make_unique<Reads>(route, std::move(region), ns, codec, requests, deadline, notify);
  reads->Begin();
  return reads;
}

}  // namespace kvlink::store::client
