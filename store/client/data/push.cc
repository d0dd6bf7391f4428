// All waits of an attempt use AwaitSigns: a slow node is asked for a sign of life and may use the whole deadline; a
// node that shows none is abandoned after PushOrder::silence.
#include "store/client/data/push.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/control/retry.h"

namespace kvlink::store::client {
namespace {

// How long to wait for the answer to a repeated commit before starting the push again.
constexpr absl::Duration kRepeat = absl::Seconds(2);
constexpr absl::Duration kLook = absl::Milliseconds(50);
constexpr absl::Duration kQuestion = absl::Seconds(2);  // for a node to show a sign of life

absl::Status Cancelled() { return absl::CancelledError("the put was given up"); }

// A push in progress: its sends, and the answers that may arrive meanwhile.
class Push : public AnswerSink {
 public:
  void OnAnswer(const absl::Status& status, const proto::Answer& answer) override {
    answers_.OnAnswer(status, answer);
    MutexLock lock(&mutex_);
    heard_ = SteadyNow();
    if (!status.ok() || answer.has_push_done()) answered_ = true;
    if (!status.ok()) failed_ = status;
    changed_.SignalAll();
  }
  void OnClosed(const absl::Status& why) override {
    answers_.OnClosed(why);
    MutexLock lock(&mutex_);
    failed_ = why;
    changed_.SignalAll();
  }
  absl::StatusOr<proto::Answer> Next(absl::Time deadline) { return answers_.Next(deadline); }

  void Sending() {
    MutexLock lock(&mutex_);
    ++under_way_;
  }
  void Sent(const absl::Status& status) {
    MutexLock lock(&mutex_);
    --under_way_;
    if (status.ok()) heard_ = SteadyNow();
    // A node that abandoned the push gives the reason in its answer, which may arrive a little later.
    if (!status.ok() && unsent_.ok()) unsent_ = status;
    changed_.SignalAll();
  }
  bool answered() {
    MutexLock lock(&mutex_);
    return answered_;
  }
  bool failed() {
    MutexLock lock(&mutex_);
    return !failed_.ok() || !unsent_.ok();
  }
  // Waits until all sends have completed, or one has failed. DEADLINE_EXCEEDED.
  absl::Status WaitSent(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (under_way_ > 0 && failed_.ok() && unsent_.ok()) {
      if (!changed_.WaitUntil(&mutex_, deadline) && SteadyNow() >= deadline) {
        return absl::DeadlineExceededError("the node did not take the slabs in time");
      }
    }
    if (!failed_.ok()) return failed_;
    return unsent_;
  }
  // When the node last showed a sign of life: an answer, or bytes it took.
  absl::Time heard() {
    MutexLock lock(&mutex_);
    return heard_;
  }
  void Heard() {
    MutexLock lock(&mutex_);
    heard_ = SteadyNow();
  }

 private:
  AnswerQueue answers_;
  Mutex mutex_;
  CondVar changed_;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;  // the commit was answered
  int under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time heard_ ABSL_GUARDED_BY(mutex_) = SteadyNow();
  absl::Status failed_ ABSL_GUARDED_BY(mutex_), unsent_ ABSL_GUARDED_BY(mutex_);
};

// Checks whether the node is alive, by a small lookup, which a node answers even if its disks hang.
absl::Status AskForSign(NodeConnection* connection, const PushOrder& order, absl::Time deadline) {
  proto::Request request = connection->NewRequest(order.ns, deadline);
  request.mutable_lookup()->set_codec(static_cast<uint32_t>(order.manifest->codec));
  request.mutable_lookup()->set_identities(std::string(BytesOf(order.manifest->identity)));
  const auto answer = connection->Call(request, deadline);
  // Any answer is a sign of life.
  return absl::IsDeadlineExceeded(answer.status()) || absl::IsUnavailable(answer.status()) ? answer.status()
                                                                                           : absl::OkStatus();
}

// Calls `wait` with time limits until it returns a result, or until `deadline`. UNAVAILABLE, with order->silent set, if
// the node showed no sign of life; the connection is then closed.
template <typename Wait>
auto AwaitSigns(NodeConnection* connection, PushOrder* order, Push* push, absl::Time deadline, Wait wait)
    -> decltype(wait(deadline)) {
  while (true) {
    auto result = wait(std::min(deadline, push->heard() + order->silence));
    const absl::Time now = SteadyNow();
    if (!absl::IsDeadlineExceeded(StatusOf(result)) || now >= deadline) return result;
    if (now < push->heard() + order->silence) continue;
    if (AskForSign(connection, *order, std::min(deadline, now + kQuestion)).ok()) {
      push->Heard();
      continue;
    }
    if (SteadyNow() >= deadline) return result;
    order->silent = true;
    connection->Close();
    return absl::UnavailableError(
        absl::StrCat("the node has given no sign for ", absl::FormatDuration(SteadyNow() - push->heard())));
  }
}

absl::Status SendCommit(NodeConnection* connection, const PushOrder& order, uint64_t id,
                        const std::shared_ptr<Push>& push, absl::Time deadline) {
  const std::string manifest = SerializeManifest(*order.manifest);
  if (static_cast<int64_t>(manifest.size()) > kMaxManifest) {
    return absl::InvalidArgumentError(
        absl::StrCat("a manifest of ", manifest.size(), " bytes cannot be sent; at most ", kMaxManifest));
  }
  for (size_t begin = 0; begin < manifest.size(); begin += kManifestPiece) {
    proto::Request request = connection->NewRequest(order.ns, deadline, id);
    request.mutable_push_commit()->set_manifest(manifest.substr(begin, kManifestPiece));
    request.mutable_push_commit()->set_more(begin + kManifestPiece < manifest.size());
    KVLINK_RETURN_IF_ERROR(connection->Ask(request, push));
  }
  return absl::OkStatus();
}

absl::StatusOr<PutResult> AwaitDone(NodeConnection* connection, PushOrder* order, Push* push, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, AwaitSigns(connection, order, push, deadline,
                                                                 [&](absl::Time until) { return push->Next(until); }));
  if (!answer.has_push_done()) return absl::UnavailableError("the node answered a commit with something else");
  return PutResultOf(answer.push_done().written(), ToEtag(answer.push_done().etag()), order->manifest->etag);
}

// Stops waiting for room if the push fails meanwhile.
absl::StatusOr<transport::Slice> TakeRoom(Arena* sending, int64_t length, Push* push, absl::Time deadline) {
  while (true) {
    auto room = sending->TakeOne(length, std::min(deadline, SteadyNow() + kLook));
    if (!absl::IsDeadlineExceeded(room.status()) || SteadyNow() >= deadline || push->failed()) return room;
  }
}

absl::Status SendSlabs(NodeConnection* connection, PushOrder* order, uint64_t first_payload,
                       const std::shared_ptr<Push>& push, absl::Time deadline) {
  for (size_t layer = 0; layer < order->slabs.size() && !push->failed(); ++layer) {
    const absl::Span<const std::byte> slab = order->slabs[layer];
    if (slab.empty()) continue;
    std::optional<transport::Slice> slice = order->registered(slab);
    if (!slice.has_value()) {
      auto room = AwaitSigns(connection, order, push.get(), deadline, [&](absl::Time until) {
        return TakeRoom(order->sending, static_cast<int64_t>(slab.size()), push.get(), until);
      });
      if (!room.ok()) return push->failed() && !order->silent ? push->WaitSent(deadline) : room.status();
      std::memcpy(room->data(), slab.data(), slab.size());
      slice = *std::move(room);
    }
    push->Sending();
    connection->carrier()->Send(first_payload + layer, *std::move(slice), deadline,
                                [push](const absl::Status& status) { push->Sent(status); });
  }
  return AwaitSigns(connection, order, push.get(), deadline, [&](absl::Time until) { return push->WaitSent(until); });
}

// The node found wrong bytes. If our slabs match the manifest, they were damaged on the way.
absl::Status CheckSlabs(const PushOrder& order, const absl::Status& refusal) {
  for (size_t layer = 0; layer < order.slabs.size(); ++layer) {
    if (order.slabs[layer].empty()) continue;
    if (!order.manifest->VerifyLayer(static_cast<int64_t>(layer), order.slabs[layer]).ok()) return refusal;
  }
  return absl::UnavailableError(absl::StrCat("slabs were damaged on their way: ", refusal.message()));
}

// Everything after PushReady. The manifest is sent ahead of the slabs, so that the node can write each one on arrival.
absl::StatusOr<PutResult> Deliver(NodeConnection* connection, PushOrder* order, uint64_t id, uint64_t first_payload,
                                  const std::shared_ptr<Push>& push, absl::Time deadline) {
  order->offered = true;
  KVLINK_RETURN_IF_ERROR(SendCommit(connection, *order, id, push, deadline));
  const absl::Status sent = SendSlabs(connection, order, first_payload, push, deadline);
  order->committed = sent.ok() ? id : 0;
  if (!sent.ok()) {
    for (size_t layer = 0; layer < order->slabs.size(); ++layer)
      connection->carrier()->CancelSend(first_payload + layer);
    // Unless the node has withdrawn its receives or answered already, an answer is not certain to come.
    if (order->silent || (!absl::IsCancelled(sent) && !push->answered())) return sent;
    deadline = std::min(deadline, SteadyNow() + kRepeat);
  }
  auto done = AwaitDone(connection, order, push.get(), deadline);
  if (!sent.ok() && absl::IsDeadlineExceeded(done.status())) return absl::UnavailableError(sent.message());
  // Only a lost answer leaves the outcome unknown.
  if (!absl::IsUnavailable(done.status()) && !absl::IsDeadlineExceeded(done.status())) order->committed = 0;
  // The node has dropped the push and asks to begin again.
  if (absl::IsFailedPrecondition(done.status())) return absl::UnavailableError(done.status().message());
  if (absl::IsInvalidArgument(done.status())) return CheckSlabs(*order, done.status());
  return done;
}

absl::StatusOr<PutResult> Attempt(NodeConnection* connection, PushOrder* order, absl::Time deadline) {
  const auto push = std::make_shared<Push>();
  if (order->end != nullptr) order->end->Attach(push);
  proto::Request request = connection->NewRequest(order->ns, deadline);
  const uint64_t id = request.id();
  proto::PushBegin* const begin = request.mutable_push_begin();
  begin->set_identity(std::string(BytesOf(order->manifest->identity)));
  begin->set_codec(static_cast<uint32_t>(order->manifest->codec));
  for (const LayerManifest& layer : order->manifest->layers) begin->add_lengths(layer.length);
  KVLINK_RETURN_IF_ERROR(connection->Ask(request, push));
  absl::StatusOr<PutResult> result = absl::UnavailableError("");
  auto answer =
      AwaitSigns(connection, order, push.get(), deadline, [&](absl::Time until) { return push->Next(until); });
  if (!answer.ok()) {
    result = answer.status();
  } else if (!answer->has_push_ready()) {
    result = absl::UnavailableError("the node answered a push with something else");
  } else if (!answer->push_ready().etag().empty()) {
    const Etag etag = ToEtag(answer->push_ready().etag());
    // Presumably stored by our previous attempt.
    result = PutResultOf(order->offered && etag == order->manifest->etag, etag, order->manifest->etag);
  } else {
    result = Deliver(connection, order, id, answer->push_ready().first_payload(), push, deadline);
  }
  connection->Forget(id);
  if (!result.ok()) {
    proto::Request cancel = connection->NewRequest(order->ns, deadline);
    cancel.mutable_cancel()->set_request(id);
    connection->Tell(cancel);
  }
  return result;
}

absl::Status TakeSlot(NodeConnection* connection, const PushOrder& order, absl::Time deadline) {
  while (true) {
    if (order.end != nullptr && order.end->cancelled()) return Cancelled();
    const absl::Time until = order.end == nullptr ? deadline : std::min(deadline, SteadyNow() + kLook);
    const absl::Status taken = connection->pushes().Take(until);
    if (taken.ok() || SteadyNow() >= deadline) return taken;
  }
}

}  // namespace

void PushEnd::Cancel() {
  std::shared_ptr<AnswerSink> push;
  {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    push = push_.lock();
  }
  if (push != nullptr) push->OnClosed(Cancelled());
}

bool PushEnd::cancelled() const {
  MutexLock lock(&mutex_);
  return cancelled_;
}

void PushEnd::Attach(const std::shared_ptr<AnswerSink>& push) {
  {
    MutexLock lock(&mutex_);
    push_ = push;
    if (!cancelled_) return;
  }
  push->OnClosed(Cancelled());
}

absl::StatusOr<PutResult> PushOnce(const std::shared_ptr<NodeConnection>& connection, PushOrder* order,
                                   absl::Time deadline) {
  if (order->committed != 0) {
    const auto push = std::make_shared<Push>();
    if (order->end != nullptr) order->end->Attach(push);
    const absl::Time limit = std::min(deadline, SteadyNow() + kRepeat);
    KVLINK_RETURN_IF_ERROR(SendCommit(connection.get(), *order, order->committed, push, limit));
    auto done = AwaitDone(connection.get(), order, push.get(), limit);
    connection->Forget(order->committed);
    if (done.ok() || absl::IsUnavailable(done.status())) return done;
    // The node does not know the commit: it was not carried out, or long ago.
  }
  KVLINK_RETURN_IF_ERROR(TakeSlot(connection.get(), *order, deadline));
  auto result = Attempt(connection.get(), order, deadline);
  connection->pushes().Give();
  return result;
}

}  // namespace kvlink::store::client
