#include "store/client/data/push.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"

namespace kvlink::store::client {
namespace {

// How long an answer to a repeated commit is waited for before the push is made anew.
constexpr absl::Duration kRepeat = absl::Seconds(2);
constexpr absl::Duration kLook = absl::Milliseconds(50);

// What is under way: sends, and the answers that may come meanwhile.
class Push : public AnswerSink {
 public:
  void OnAnswer(const absl::Status& status, const proto::Answer& answer) override {
    answers_.OnAnswer(status, answer);
    MutexLock lock(&mutex_);
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
    // A node that gave the push up says why in its answer, which may come a little later.
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
  // Until nothing is sent any more, or something went wrong.
  absl::Status WaitSent() {
    MutexLock lock(&mutex_);
    while (under_way_ > 0 && failed_.ok() && unsent_.ok()) changed_.Wait(&mutex_);
    if (!failed_.ok()) return failed_;
    return unsent_;
  }

 private:
  AnswerQueue answers_;
  Mutex mutex_;
  CondVar changed_;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;  // the commit
  int under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_), unsent_ ABSL_GUARDED_BY(mutex_);
};

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

absl::StatusOr<PutResult> AwaitDone(Push* push, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, push->Next(deadline));
  if (!answer.has_push_done()) return absl::UnavailableError("the node answered a commit with something else");
  return PutResult{ToEtag(answer.push_done().etag()), answer.push_done().written()};
}

// A push that failed meanwhile does not wait for room any longer.
absl::StatusOr<transport::Slice> TakeRoom(Arena* sending, int64_t length, Push* push, absl::Time deadline) {
  while (true) {
    auto room = sending->TakeOne(length, std::min(deadline, SteadyNow() + kLook));
    if (!absl::IsDeadlineExceeded(room.status()) || SteadyNow() >= deadline || push->failed()) return room;
  }
}

absl::Status SendSlabs(NodeConnection* connection, const PushOrder& order, uint64_t first_payload,
                       const std::shared_ptr<Push>& push, absl::Time deadline) {
  for (size_t layer = 0; layer < order.slabs.size() && !push->failed(); ++layer) {
    const absl::Span<const std::byte> slab = order.slabs[layer];
    if (slab.empty()) continue;
    std::optional<transport::Slice> slice = order.registered(slab);
    if (!slice.has_value()) {
      auto room = TakeRoom(order.sending, static_cast<int64_t>(slab.size()), push.get(), deadline);
      if (!room.ok()) return push->failed() ? push->WaitSent() : room.status();
      std::memcpy(room->data(), slab.data(), slab.size());
      slice = *std::move(room);
    }
    push->Sending();
    connection->carrier()->Send(first_payload + layer, *std::move(slice), deadline,
                                [push](const absl::Status& status) { push->Sent(status); });
  }
  return push->WaitSent();
}

// The node found something wrong. Where the slabs are as the manifest says, it happened on their way.
absl::Status CheckSlabs(const PushOrder& order, const absl::Status& refusal) {
  for (size_t layer = 0; layer < order.slabs.size(); ++layer) {
    if (order.slabs[layer].empty()) continue;
    if (!order.manifest->VerifyLayer(static_cast<int64_t>(layer), order.slabs[layer]).ok()) return refusal;
  }
  return absl::UnavailableError(absl::StrCat("slabs were damaged on their way: ", refusal.message()));
}

// From PushReady on. The manifest goes ahead of the slabs: the node then writes each as soon as it is there.
absl::StatusOr<PutResult> Deliver(NodeConnection* connection, PushOrder* order, uint64_t id, uint64_t first_payload,
                                  const std::shared_ptr<Push>& push, absl::Time deadline) {
  order->offered = true;
  KVLINK_RETURN_IF_ERROR(SendCommit(connection, *order, id, push, deadline));
  const absl::Status sent = SendSlabs(connection, *order, first_payload, push, deadline);
  order->committed = sent.ok() ? id : 0;
  if (!sent.ok()) {
    for (size_t layer = 0; layer < order->slabs.size(); ++layer)
      connection->carrier()->CancelSend(first_payload + layer);
    // Unless the node has taken its receives back, or has answered already, no answer can be counted on.
    if (!absl::IsCancelled(sent) && !push->answered()) return sent;
    deadline = std::min(deadline, SteadyNow() + kRepeat);
  }
  auto done = AwaitDone(push.get(), deadline);
  if (!sent.ok() && absl::IsDeadlineExceeded(done.status())) return absl::UnavailableError(sent.message());
  // Only a lost answer leaves open what became of it.
  if (!absl::IsUnavailable(done.status()) && !absl::IsDeadlineExceeded(done.status())) order->committed = 0;
  // The node has dropped the push and says to begin again.
  if (absl::IsFailedPrecondition(done.status())) return absl::UnavailableError(done.status().message());
  if (absl::IsInvalidArgument(done.status())) return CheckSlabs(*order, done.status());
  return done;
}

absl::StatusOr<PutResult> Attempt(NodeConnection* connection, PushOrder* order, absl::Time deadline) {
  const auto push = std::make_shared<Push>();
  proto::Request request = connection->NewRequest(order->ns, deadline);
  const uint64_t id = request.id();
  proto::PushBegin* const begin = request.mutable_push_begin();
  begin->set_identity(std::string(BytesOf(order->manifest->identity)));
  begin->set_codec(static_cast<uint32_t>(order->manifest->codec));
  for (const LayerManifest& layer : order->manifest->layers) begin->add_lengths(layer.length);
  KVLINK_RETURN_IF_ERROR(connection->Ask(request, push));
  absl::StatusOr<PutResult> result = absl::UnavailableError("");
  auto answer = push->Next(deadline);
  if (!answer.ok()) {
    result = answer.status();
  } else if (!answer->has_push_ready()) {
    result = absl::UnavailableError("the node answered a push with something else");
  } else if (!answer->push_ready().etag().empty()) {
    const Etag etag = ToEtag(answer->push_ready().etag());
    // Ours of the attempt before, as far as anybody can tell.
    result = PutResult{etag, order->offered && etag == order->manifest->etag};
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

}  // namespace

absl::StatusOr<PutResult> PushOnce(const std::shared_ptr<NodeConnection>& connection, PushOrder* order,
                                   absl::Time deadline) {
  if (order->committed != 0) {
    const auto push = std::make_shared<Push>();
    const absl::Time limit = std::min(deadline, SteadyNow() + kRepeat);
    KVLINK_RETURN_IF_ERROR(SendCommit(connection.get(), *order, order->committed, push, limit));
    auto done = AwaitDone(push.get(), limit);
    connection->Forget(order->committed);
    if (done.ok() || absl::IsUnavailable(done.status())) return done;
    // The node does not know of it: it was not carried out, or long ago.
  }
  KVLINK_RETURN_IF_ERROR(connection->pushes().Take(deadline));
  auto result = Attempt(connection.get(), order, deadline);
  connection->pushes().Give();
  return result;
}

}  // namespace kvlink::store::client
