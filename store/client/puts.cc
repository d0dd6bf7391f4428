// A put is a dialogue: begin, memory, slabs one by one as memory becomes free, commit. It occupies a thread throughout,
// so two-step puts share a bounded number of threads.
#include "store/client/puts.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "store/client/data/push.h"

namespace kvlink::store::client {
namespace {

absl::Status Check(absl::string_view ns, const Manifest& manifest, absl::Span<const absl::Span<const std::byte>> slabs,
                   absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  KVLINK_RETURN_IF_ERROR(Annotate(manifest.Validate(), "put"));
  if (slabs.size() != manifest.layers.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("put: ", slabs.size(), " slabs for ", manifest.layers.size(), " layers"));
  }
  for (size_t layer = 0; layer < slabs.size(); ++layer) {
    if (static_cast<int64_t>(slabs[layer].size()) != manifest.layers[layer].length) {
      return absl::InvalidArgumentError(absl::StrCat("put: the slab of layer ", layer, " has ", slabs[layer].size(),
                                                     " bytes, but the manifest says ", manifest.layers[layer].length));
    }
  }
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("put: the deadline has passed");
  return absl::OkStatus();
}

// A connection that is dialled for a put, until the put is given up.
class Dialled : public AnswerSink {
 public:
  void OnAnswer(const absl::Status&, const proto::Answer&) override {}
  void OnClosed(const absl::Status& why) override { Set(why); }
  // The first counts.
  void Set(absl::StatusOr<Route::Opened> opened) {
    MutexLock lock(&mutex_);
    if (!opened_.has_value()) opened_ = std::move(opened);
    changed_.SignalAll();
  }
  absl::StatusOr<Route::Opened> Wait(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (!opened_.has_value()) {
      if (!changed_.WaitUntil(&mutex_, deadline) && !opened_.has_value()) {
        return absl::DeadlineExceededError("no connection to the node in time");
      }
    }
    return *opened_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::optional<absl::StatusOr<Route::Opened>> opened_ ABSL_GUARDED_BY(mutex_);
};

// A put that may be given up leaves dialling to the threads for it, which cannot be interrupted.
absl::StatusOr<Route::Opened> Open(Route* route, PushEnd* end, absl::Time deadline) {
  if (end == nullptr) return route->Acquire(Need::kPayloads, deadline);
  if (auto present = route->Present(Need::kPayloads); present.has_value()) return *std::move(present);
  const auto dialled = std::make_shared<Dialled>();
  end->Attach(dialled);
  route->Dial(Need::kPayloads, [dialled](const absl::StatusOr<Route::Opened>& opened) { dialled->Set(opened); });
  return dialled->Wait(deadline);
}

// `end` may be null.
absl::StatusOr<PutResult> Carry(Route* route, absl::string_view ns, const Manifest& manifest,
                                absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline,
                                PushEnd* end) {
  PushOrder order;
  order.ns = std::string(ns);
  order.manifest = &manifest;
  order.slabs = slabs;
  order.end = end;
  order.counters = &route->counters();
  order.silence = route->options().silence;
  const absl::Duration silence = order.silence;
  ++route->counters().pushes;
  absl::Duration silent;  // total time that attempts waited for a node without a sign of life
  const auto sleep = [end](absl::Duration wait) { end == nullptr ? absl::SleepFor(wait) : end->Sleep(wait); };
  const auto attempt = [&]() -> absl::StatusOr<PutResult> {
    if (end != nullptr && end->cancelled()) return absl::CancelledError("the put was cancelled");
    const absl::Time begun = SteadyNow();
    const absl::Time limit = std::min(deadline, begun + silence - silent);
    const auto opened = Open(route, end, limit);
    absl::StatusOr<PutResult> done = absl::UnavailableError("");
    if (opened.ok()) {
      silent = absl::ZeroDuration();
      TransportMemory* const memory = &opened->path->memory();
      order.sending = &memory->sending();
      order.registered = [memory](absl::Span<const std::byte> slab) { return memory->Registered(slab); };
      done = route->Checked(*opened->connection, PushOnce(opened->connection, &order, deadline));
      if (!order.silent) return done;
      silent = silence;
    } else {
      silent += SteadyNow() - begun;
      done = opened.status();
    }
    if (silent < silence || SteadyNow() >= deadline) return done;
    // Ends the retries.
    return absl::AbortedError("");
  };
  auto result = WithRetries(&route->retries(), deadline, attempt, sleep);
  if (absl::IsAborted(result.status()) && silent >= silence) {
    result =
        absl::UnavailableError(absl::StrCat("put: the node at ", route->options().address, " has not responded for ",
                                            absl::FormatDuration(silence), ": it is stopped or unreachable"));
  }
  if (!result.ok()) {
    ++route->counters().failed_pushes;
    return EndOf(result.status(), route->options().address, deadline);
  }
  return result;
}

// Shared by the waiter and the thread whose turn comes.
class PutCall {
 public:
  PutCall(Route* route, absl::string_view ns, const Manifest& manifest,
          absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline, const Notify& notify)
      : route_(route),
        ns_(ns),
        manifest_(manifest),
        slabs_(slabs.begin(), slabs.end()),
        deadline_(deadline),
        notify_(notify) {}

  void Run(const absl::Status& turn);
  absl::StatusOr<PutResult> Wait(absl::Time deadline);
  void GiveUp();

 private:
  enum class State : uint8_t { kWaits, kRuns, kDone };

  Route* const route_;
  const std::string ns_;
  const Manifest& manifest_;
  const std::vector<absl::Span<const std::byte>> slabs_;
  const absl::Time deadline_;
  PushEnd end_;
  Mutex mutex_;
  CondVar changed_;
  Notify notify_ ABSL_GUARDED_BY(mutex_);
  State state_ ABSL_GUARDED_BY(mutex_) = State::kWaits;
  absl::StatusOr<PutResult> result_ ABSL_GUARDED_BY(mutex_) = absl::UnavailableError("");
};

void PutCall::Run(const absl::Status& turn) {
  {
    MutexLock lock(&mutex_);
    if (state_ != State::kWaits) return;
    state_ = State::kRuns;
  }
  auto result = turn.ok() ? Carry(route_, ns_, manifest_, slabs_, deadline_, &end_) : absl::StatusOr<PutResult>(turn);
  MutexLock lock(&mutex_);
  result_ = std::move(result);
  state_ = State::kDone;
  changed_.SignalAll();
  if (notify_.arrivals != nullptr) notify_.arrivals->Add(notify_.tag);
}

absl::StatusOr<PutResult> PutCall::Wait(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (state_ != State::kDone) {
    if (changed_.WaitUntil(&mutex_, deadline) || state_ == State::kDone) continue;
    return absl::DeadlineExceededError("the put has not finished yet");
  }
  return result_;
}

void PutCall::GiveUp() {
  end_.Cancel();
  MutexLock lock(&mutex_);
  notify_.arrivals = nullptr;
  while (state_ == State::kRuns) changed_.Wait(&mutex_);
  state_ = State::kDone;
}

class StartedPut : public PendingPut {
 public:
  explicit StartedPut(std::shared_ptr<PutCall> call) : call_(std::move(call)) {}
  ~StartedPut() override { call_->GiveUp(); }
  absl::StatusOr<PutResult> Wait(absl::Time deadline) override { return call_->Wait(deadline); }

 private:
  const std::shared_ptr<PutCall> call_;
};

}  // namespace

absl::StatusOr<PutResult> PutOver(Route* route, absl::string_view ns, const Manifest& manifest,
                                  absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(Check(ns, manifest, slabs, deadline));
  return Carry(route, ns, manifest, slabs, deadline, nullptr);
}

absl::StatusOr<std::unique_ptr<PendingPut>> AskPut(Route* route, absl::string_view ns, const Manifest& manifest,
                                                   absl::Span<const absl::Span<const std::byte>> slabs,
                                                   absl::Time deadline, const Notify& notify) {
  KVLINK_RETURN_IF_ERROR(Check(ns, manifest, slabs, deadline));
  auto call = std::make_shared<PutCall>(route, ns, manifest, slabs, deadline, notify);
  KVLINK_RETURN_IF_ERROR(route->resources().puts().Add({.work = [call](const absl::Status& turn) { call->Run(turn); },
                                                        .deadline = deadline,
                                                        .owner = route->options().address}));
  return std::make_unique<StartedPut>(std::move(call));
}

}  // namespace kvlink::store::client
