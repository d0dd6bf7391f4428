// All work happens where the event occurs: on the carrier's thread, the timer's, or one that dialled. Each attempt is
// an object of its own, so that a late event of one is not taken for an event of the next.
#include "store/client/lookup.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "proto/data.h"

namespace kvlink::store::client {
namespace {

class LookupCall : public std::enable_shared_from_this<LookupCall> {
 public:
  LookupCall(Route* route, absl::string_view ns, absl::Span<const Identity> identities, Codec codec,
             absl::Time deadline, const Notify& notify)
      : route_(route),
        ns_(ns),
        identities_(identities.begin(), identities.end()),
        codec_(codec),
        deadline_(deadline),
        patience_(route->Patience(deadline)),
        notify_(notify) {}

  void Begin();
  absl::StatusOr<std::vector<Found>> Wait(absl::Time deadline);
  void GiveUp();

 private:
  // One attempt: as many requests as the limit per request makes necessary.
  struct Attempt : AnswerSink {
    std::weak_ptr<LookupCall> call;
    Route::Opened opened;
    absl::Time asked;
    std::vector<uint64_t> ids;  // of the requests; set before the first one is sent
    size_t left = 0;            // not answered yet
    std::vector<Found> found;
    void OnAnswer(const absl::Status& status, const proto::Answer& answer) override {
      if (const auto of = call.lock()) of->OnAnswer(this, status, answer);
    }
    void OnClosed(const absl::Status& why) override {
      if (const auto of = call.lock()) of->OnAnswer(this, why, {});
    }
  };

  void Send(Route::Opened opened);
  void OnAnswer(Attempt* attempt, const absl::Status& status, const proto::Answer& answer);
  void Use(Attempt* attempt, const absl::Status& status, const proto::Answer& answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Take(Attempt* attempt, const proto::Answer& answer) const;
  // An attempt failed: starts another one, or ends.
  void Failed(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndAttempt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The caller then calls Tell().
  void Finish(absl::StatusOr<std::vector<Found>> result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // If the call has ended, wakes its waiter. Without the lock, which the waiter takes at once.
  void Tell() ABSL_LOCKS_EXCLUDED(mutex_);

  Route* const route_;
  const std::string ns_;
  const std::vector<Identity> identities_;
  const Codec codec_;
  const absl::Time deadline_, patience_;
  Mutex mutex_;
  CondVar changed_;
  Notify notify_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Attempt> attempt_ ABSL_GUARDED_BY(mutex_);  // in progress; null: none
  int attempts_ ABSL_GUARDED_BY(mutex_) = 0;                  // failed attempts
  std::unique_ptr<Alarm> again_ ABSL_GUARDED_BY(mutex_);
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::StatusOr<std::vector<Found>> result_ ABSL_GUARDED_BY(mutex_) = absl::UnavailableError("");
};

void LookupCall::Begin() {
  auto opened = route_->Present(Need::kMessages);
  if (opened.has_value()) return Send(*std::move(opened));
  route_->Dial(Need::kMessages, [weak = weak_from_this()](const absl::StatusOr<Route::Opened>& dialled) {
    const auto call = weak.lock();
    if (call == nullptr) return;
    if (dialled.ok()) return call->Send(*dialled);
    {
      MutexLock lock(&call->mutex_);
      if (!call->done_) call->Failed(dialled.status());
    }
    call->Tell();
  });
}

void LookupCall::Send(Route::Opened opened) {
  const std::shared_ptr<NodeConnection> connection = opened.connection;  // an answer may end the attempt meanwhile
  std::vector<proto::Request> requests;
  for (size_t begin = 0; begin < identities_.size(); begin += kMaxIdentities) {
    proto::Request& request = requests.emplace_back(connection->NewRequest(ns_, deadline_));
    request.mutable_lookup()->set_codec(static_cast<uint32_t>(codec_));
    request.mutable_lookup()->set_identities(
        PackIdentities(absl::MakeConstSpan(identities_).subspan(begin, kMaxIdentities)));
  }
  const auto attempt = std::make_shared<Attempt>();
  attempt->call = weak_from_this();
  attempt->opened = std::move(opened);
  attempt->asked = SteadyNow();
  for (const proto::Request& request : requests) attempt->ids.push_back(request.id());
  attempt->left = requests.size();
  attempt->found.resize(identities_.size());
  {
    MutexLock lock(&mutex_);
    if (done_) return;
    attempt_ = attempt;
    if (requests.empty()) Finish(std::vector<Found>());
  }
  if (requests.empty()) return Tell();
  for (const proto::Request& request : requests) {
    const absl::Status sent = connection->Ask(request, attempt);
    if (!sent.ok()) return OnAnswer(attempt.get(), sent, {});
  }
}

void LookupCall::OnAnswer(Attempt* attempt, const absl::Status& status, const proto::Answer& answer) {
  {
    MutexLock lock(&mutex_);
    Use(attempt, status, answer);
  }
  Tell();
}

void LookupCall::Use(Attempt* attempt, const absl::Status& status, const proto::Answer& answer) {
  if (attempt_.get() != attempt) return;
  const auto kept = attempt_;
  absl::Status taken = status;
  if (taken.ok()) taken = Take(attempt, answer);
  if (!taken.ok()) {
    const absl::Status failed = route_->Checked(*attempt->opened.connection, taken);
    EndAttempt();
    return Failed(failed);
  }
  if (attempt->left > 0) return;
  EndAttempt();
  route_->retries().Succeeded();
  Finish(std::move(kept->found));
}

absl::Status LookupCall::Take(Attempt* attempt, const proto::Answer& answer) const {
  const auto id = std::find(attempt->ids.begin(), attempt->ids.end(), answer.id());
  const size_t begin = static_cast<size_t>(id - attempt->ids.begin()) * kMaxIdentities;
  const size_t count = std::min<size_t>(kMaxIdentities, identities_.size() - begin);
  const std::string& records = answer.found().records();
  if (records.size() != count * kFoundRecordBytes) {
    return absl::UnavailableError("the node answered a lookup with the wrong number of records");
  }
  for (size_t i = 0; i < count; ++i) {
    const FoundRecord record = FoundRecordAt({records.data(), records.size()}, static_cast<int64_t>(i));
    Found& found = attempt->found[begin + i];
    if (record.tier == kMovedTier) found.moved = answer.found().epoch();
    if (record.tier == 0 || record.tier == kMovedTier) continue;
    found = {.present = true,
             .codec = codec_,
             .etag = record.etag,
             .tokens = static_cast<int64_t>(record.tokens),
             .bytes = static_cast<int64_t>(record.bytes),
             .tier = static_cast<Tier>(record.tier)};
  }
  attempt->opened.connection->Forget(answer.id());
  --attempt->left;
  return absl::OkStatus();
}

void LookupCall::EndAttempt() {
  const auto attempt = std::exchange(attempt_, nullptr);
  if (attempt == nullptr) return;
  for (const uint64_t id : attempt->ids) attempt->opened.connection->Forget(id);
  attempt->opened.connection = nullptr;
}

void LookupCall::Failed(const absl::Status& status) {
  const std::optional<absl::Duration> wait = route_->retries().Wait(status, attempts_++, patience_);
  if (!wait.has_value()) return Finish(EndOf(status, route_->options().address, deadline_));
  if (again_ == nullptr) {
    again_ = std::make_unique<Alarm>(&route_->resources().timer(), [this] {
      Begin();
      return absl::InfiniteFuture();
    });
  }
  again_->Set(SteadyNow() + *wait);
}

void LookupCall::Finish(absl::StatusOr<std::vector<Found>> result) {
  done_ = true;
  result_ = std::move(result);
}

void LookupCall::Tell() {
  Notify told;
  {
    MutexLock lock(&mutex_);
    if (!done_) return;
    told = std::exchange(notify_, {});
  }
  changed_.SignalAll();
  if (told.arrivals != nullptr) told.arrivals->Add(told.tag);
}

absl::StatusOr<std::vector<Found>> LookupCall::Wait(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (!done_) {
    if (changed_.WaitUntil(&mutex_, std::min(deadline, deadline_)) || done_) continue;
    if (SteadyNow() < deadline_) return absl::DeadlineExceededError("the node has not answered yet");
    if (attempt_ != nullptr) attempt_->opened.connection->Unanswered(attempt_->asked);
    EndAttempt();
    done_ = true;
    result_ = absl::DeadlineExceededError("the node did not answer in time");
  }
  return result_;
}

void LookupCall::GiveUp() {
  std::unique_ptr<Alarm> again;  // its work may take the lock
  MutexLock lock(&mutex_);
  if (attempt_ != nullptr) attempt_->opened.connection->Unanswered(attempt_->asked);
  EndAttempt();
  done_ = true;
  notify_.arrivals = nullptr;
  again = std::move(again_);
}

class StartedLookup : public PendingLookup {
 public:
  explicit StartedLookup(std::shared_ptr<LookupCall> call) : call_(std::move(call)) {}
  ~StartedLookup() override { call_->GiveUp(); }
  absl::StatusOr<std::vector<Found>> Wait(absl::Time deadline) override { return call_->Wait(deadline); }

 private:
  const std::shared_ptr<LookupCall> call_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PendingLookup>> AskLookup(Route* route, absl::string_view ns,
                                                         absl::Span<const Identity> identities, Codec codec,
                                                         absl::Time deadline, const Notify& notify) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("lookup: the deadline has passed");
  auto call = std::make_shared<LookupCall>(route, ns, identities, codec, deadline, notify);
  call->Begin();
  return std::make_unique<StartedLookup>(std::move(call));
}

}  // namespace kvlink::store::client
