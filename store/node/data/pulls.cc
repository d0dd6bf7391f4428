#include "store/node/data/pulls.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/part.h"
#include "store/node/data/context.h"
#include "store/store.h"

namespace kvlink::store::node {
namespace {

// Open sends of one pull: enough to keep a network busy with pieces of 64 KiB, and few enough that a connection's pulls
// can share its transport::kMaxOperations.
constexpr int kMaxSends = 32;  // as many as a client grants, so that no send waits for a receive

class Pull : public Transfer, public std::enable_shared_from_this<Pull> {
 public:
  Pull(std::shared_ptr<Call> call, engine::EncodingKey key, std::shared_ptr<engine::EncodingLease> lease,
       std::vector<Piece> pieces)
      : context_(call->context()),
        connection_(call->connection()),
        key_(std::move(key)),
        serves_reader_(call->session()->grant().right != Right::kRepair),
        id_(call->id()),
        deadline_(call->deadline()),
        first_payload_(call->request().pull().first_payload()),
        pieces_(std::move(pieces)),
        credited_{call->session()->grant().name, connection_->number(), lease->from_dram() ? Tier::kDram : Tier::kDisk},
        call_(std::move(call)),
        lease_(std::move(lease)) {
    context_->push_credit.PullBegan();
    context_->pull_credit.Began(credited_);
  }
  ~Pull() override {
    context_->pull_credit.Ended(credited_);
    context_->push_credit.PullEnded();
  }

  // Sends what may be sent now, and asks to be called when the next layer has arrived. The caller must call Finish
  // afterwards.
  void Advance() {
    if (Pass(Event::kAsked) != Phase::kAdvancing) return;
    do {
      SendWhatIsThere();
    } while (Pass(Event::kSent) == Phase::kAdvancing);
  }

  void End(const absl::Status& why) override {
    std::set<size_t> open;
    {
      MutexLock lock(&mutex_);
      if (why_.has_value()) return;
      why_ = why;
      open = open_;
    }
    for (const size_t piece : open) connection_->channel()->payloads()->CancelSend(first_payload_ + piece);
    Finish();
  }

  // Answers, if nothing is left to do.
  void Finish() {
    std::shared_ptr<Call> call;
    absl::Status why;
    int64_t sent = 0;
    {
      MutexLock lock(&mutex_);
      if (call_ == nullptr || !open_.empty()) return;
      if (!why_.has_value() && next_ < pieces_.size()) return;
      why = why_.value_or(absl::OkStatus());
      if (!why_.has_value()) why_ = absl::OkStatus();
      call = std::move(call_);
      lease_ = nullptr;
      sent = sent_bytes_;
    }
    if (sent > 0 && serves_reader_) context_->core->read_rates.Add(key_, sent, SteadyNow());
    connection_->RemoveTransfer(ClientConnection::Kind::kPull, id_);
    if (!why.ok()) return call->Refuse(why);
    proto::Answer answer;
    answer.mutable_pull_done();
    call->Answer(std::move(answer));
  }

  void Sweep(absl::Time now) override {
    if (now > deadline_) End(absl::DeadlineExceededError("the pull did not end within its deadline"));
  }

 private:
  // Only one thread advances at a time. Requests made meanwhile, also by a layer that has already arrived and says so
  // within the call, make that thread look again instead of recursing.
  enum class Phase { kResting, kAdvancing, kAskedAgain };
  enum class Event { kAsked, kSent };
  static Phase After(Phase phase, Event event) {
    switch (event) {
      case Event::kAsked:
        return phase == Phase::kResting ? Phase::kAdvancing : Phase::kAskedAgain;
      case Event::kSent:
        return phase == Phase::kAskedAgain ? Phase::kAdvancing : Phase::kResting;
    }
    return phase;
  }
  Phase Pass(Event event) {
    MutexLock lock(&mutex_);
    return phase_ = After(phase_, event);
  }

  void SendWhatIsThere() {
    std::shared_ptr<engine::EncodingLease> lease;
    int64_t layer = 0;
    {
      MutexLock lock(&mutex_);
      while (MaySend() && pieces_[next_].layer < read_layers_) SendNext();
      if (!MaySend() || awaited_ >= read_layers_) return;
      awaited_ = layer = pieces_[next_].layer;
      lease = lease_;
    }
    lease->OnLayerRead(
        layer, [self = shared_from_this(), layer](const absl::Status& status) { self->Received(layer, status); });
  }

  bool MaySend() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !why_.has_value() && next_ < pieces_.size() && open_.size() < kMaxSends && !waits_for_credit_;
  }
  void SendNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Piece& piece = pieces_[next_];
    const auto slice = SliceOf(piece);
    if (!slice.ok()) {
      why_ = slice.status();
      return;
    }
    waits_for_credit_ = !context_->pull_credit.Take(credited_, piece.length, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->GoOn();
    });
    if (waits_for_credit_) return;
    const size_t number = next_++;
    open_.insert(number);
    // Under the lock, so that pieces start in order; Send only queues.
    connection_->channel()->payloads()->Send(
        first_payload_ + number, *slice, deadline_,
        [self = shared_from_this(), number](const absl::Status& status) { self->Sent(number, status); });
  }

  // The bytes of a piece, holding the lease until the network no longer touches them.
  absl::StatusOr<transport::Slice> SliceOf(const Piece& piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    engine::Place place = lease_->place(piece.layer);
    place.offset += piece.offset;
    KVLINK_ASSIGN_OR_RETURN(transport::Slice slice,
                            context_->memory.Find(connection_->channel()->transport(), place, piece.length));
    struct Hold {
      std::shared_ptr<engine::EncodingLease> lease;
      std::shared_ptr<transport::RegisteredBuffer> buffer;
    };
    auto hold = std::make_shared<Hold>(Hold{lease_, std::move(slice.buffer)});
    slice.buffer = std::shared_ptr<transport::RegisteredBuffer>(hold, hold->buffer.get());
    return slice;
  }

  void Received(int64_t layer, const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      if (status.ok()) read_layers_ = std::max(read_layers_, layer + 1);
    }
    if (status.ok()) {
      Advance();
      Finish();
    } else {
      End(status);
    }
  }

  // Called when there may be credit.
  void GoOn() {
    {
      MutexLock lock(&mutex_);
      waits_for_credit_ = false;
    }
    Advance();
    Finish();
  }

  void Sent(size_t number, const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      open_.erase(number);
      if (status.ok()) sent_bytes_ += pieces_[number].length;
    }
    context_->pull_credit.Return(credited_, pieces_[number].length);
    if (status.ok()) {
      Advance();
    } else {
      End(absl::IsInvalidArgument(status) ? Annotate(status, "a posted receive of the pull is too short or named twice")
                                          : status);
    }
    Finish();
  }

  DataContext* const context_;
  const std::shared_ptr<ClientConnection> connection_;
  const engine::EncodingKey key_;
  // Copies that other members make are no demand, and must not make an encoding hot.
  const bool serves_reader_;
  const uint64_t id_;
  const absl::Time deadline_;
  const uint64_t first_payload_;
  const std::vector<Piece> pieces_;
  const PullCredit::Pull credited_;

  Mutex mutex_;
  std::shared_ptr<Call> call_ ABSL_GUARDED_BY(mutex_);  // null: answered
  std::shared_ptr<engine::EncodingLease> lease_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<size_t> open_ ABSL_GUARDED_BY(mutex_);
  int64_t sent_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // taken by the client; what it only asks for makes nothing hot
  bool waits_for_credit_ ABSL_GUARDED_BY(mutex_) = false;  // GoOn() will be called
  int64_t read_layers_ ABSL_GUARDED_BY(mutex_) = 0;        // layers [0, read_layers_) have arrived
  int64_t awaited_ ABSL_GUARDED_BY(mutex_) = -1;  // the last layer requested; Received() is called when it arrives
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kResting;
  std::optional<absl::Status> why_ ABSL_GUARDED_BY(mutex_);  // set: nothing more is sent
};

absl::Status Start(const std::shared_ptr<Call>& call) {
  DataContext* const context = call->context();
  const proto::Pull& pull = call->request().pull();
  if (call->connection()->channel()->payloads() == nullptr) {
    return absl::FailedPreconditionError(
        "this connection carries no payloads: take a lease, or pull over another connection");
  }
  const engine::EncodingKey key = call->KeyOf(pull.name().identity(), pull.name().codec());
  auto taken = context->core->engine->Read(key, ToEtag(pull.name().etag()), call->deadline());
  if (!taken.ok()) return call->UnlessMoved(key.identity, taken.status());
  std::shared_ptr<engine::EncodingLease> lease = *std::move(taken);
  KVLINK_ASSIGN_OR_RETURN(std::vector<Piece> pieces, PiecesOf(lease->manifest(), pull.part()));
  if (pieces.size() > pull.payloads()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the part has ", pieces.size(), " pieces, but the pull has ", pull.payloads(), " receives"));
  }
  const Tier tier = lease->from_dram() ? Tier::kDram : Tier::kDisk;
  const auto transfer = std::make_shared<Pull>(call, key, lease, std::move(pieces));
  KVLINK_RETURN_IF_ERROR(call->connection()->AddTransfer(ClientConnection::Kind::kPull, call->id(), transfer));
  const absl::Status sent =
      SendManifest(lease->manifest(), *call, [tier](absl::string_view piece, bool more, bool first) {
        proto::Answer answer;
        answer.mutable_pull_started()->set_manifest(piece.data(), piece.size());
        answer.mutable_pull_started()->set_more(more);
        answer.mutable_pull_started()->set_tier(static_cast<uint32_t>(tier));
        return answer;
      });
  if (!sent.ok()) {
    transfer->End(sent);
    return absl::OkStatus();  // already answered
  }
  transfer->Advance();
  // There was nothing to send, or everything has already been sent.
  transfer->Finish();
  return absl::OkStatus();
}

}  // namespace

absl::Status SendManifest(const Manifest& manifest, const Call& call, const ManifestPiece& fill) {
  const std::string bytes = SerializeManifest(manifest);
  if (static_cast<int64_t>(bytes.size()) > kMaxManifest) {
    return absl::OutOfRangeError(absl::StrCat("the manifest has ", bytes.size(), " bytes, too many for this path"));
  }
  for (size_t at = 0; at < bytes.size(); at += kManifestPiece) {
    const size_t length = std::min<size_t>(kManifestPiece, bytes.size() - at);
    call.More(fill({bytes.data() + at, length}, at + length < bytes.size(), at == 0));
  }
  return absl::OkStatus();
}

void StartPull(std::shared_ptr<Call> call) {
  const absl::Status status = Start(call);
  if (!status.ok()) call->Refuse(status);
}

}  // namespace kvlink::store::node
