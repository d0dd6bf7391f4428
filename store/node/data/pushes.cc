#include "store/node/data/pushes.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/manifest.h"
#include "store/node/data/context.h"

namespace kvlink::store::node {
namespace {

// Open receives of one push, few enough that a connection's pushes fit into its transport::kMaxOperations.
constexpr size_t kMaxReceives = 64;

// Slabs and the manifest may arrive in any order. Once the manifest has arrived, each slab is verified and written on
// arrival, while others are still on their way; the commit follows the last one.
class Push : public Transfer, public std::enable_shared_from_this<Push> {
 public:
  Push(Call* begin, engine::EncodingKey key, std::unique_ptr<engine::StreamingPut> memory)
      : context_(begin->context()),
        connection_(begin->connection()),
        id_(begin->id()),
        key_(std::move(key)),
        owner_(begin->owner()),
        lengths_(begin->request().push_begin().lengths().begin(), begin->request().push_begin().lengths().end()),
        first_payload_(connection_->TakePayloadIds(static_cast<int64_t>(lengths_.size()))),
        memory_(std::make_shared<Memory>(Memory{std::move(memory)})),
        progressed_(SteadyNow()) {
    missing_ = std::count_if(lengths_.begin(), lengths_.end(), [](int64_t length) { return length > 0; });
  }
  ~Push() override { context_->manifest_bytes.fetch_sub(static_cast<int64_t>(manifest_.size())); }

  uint64_t first_payload() const { return first_payload_; }

  // Provides memory as far as there is credit.
  void Advance() {
    absl::Status receive;
    int64_t bytes = 0;
    while (receive.ok()) {
      MutexLock lock(&mutex_);
      if (phase_ == Phase::kEnded || asked_for_credit_) return;
      while (next_ < lengths_.size() && lengths_[next_] == 0) ++next_;
      if (next_ == lengths_.size() || open_.size() >= kMaxReceives) return;
      asked_for_credit_ = true;
      bytes = lengths_[next_];
      const bool taken = context_->push_credit.Take(owner_, bytes, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->Resume();
      });
      if (!taken) return;
      asked_for_credit_ = false;
      receive = PostNext();
    }
    context_->push_credit.Return(owner_, bytes);
    End(receive);
  }

  // Takes a piece of the manifest; after the last one, slabs that have arrived start being written.
  void Commit(std::shared_ptr<Call> call) {
    const proto::PushCommit& commit = call->request().push_commit();
    const int64_t bytes = static_cast<int64_t>(commit.manifest().size());
    absl::Status refused;
    {
      MutexLock lock(&mutex_);
      progressed_ = SteadyNow();
      refused = TakeRoomForManifest(bytes);
      if (refused.ok()) manifest_ += commit.manifest();
      if (refused.ok() && !commit.more()) {
        commit_ = call;
        Pass(Event::kManifest);
      }
    }
    if (!refused.ok()) {
      call->session()->answers().Forget(id_);
      call->Refuse(refused);
      return End(refused);
    }
    if (commit.more()) return call->SuppressAnswer();
    AskToWrite();
  }

  void End(const absl::Status& why) override {
    std::set<size_t> open;
    {
      MutexLock lock(&mutex_);
      // Leaves a commit in progress alone: it ends soon, and its outcome answers a repeated commit.
      if (phase_ == Phase::kCommitting || !Pass(Event::kEnd)) return;
      why_ = why;
      open = open_;
    }
    for (const size_t layer : open) connection_->channel()->payloads()->CancelReceive(first_payload_ + layer);
    context_->log.Info("push_dropped", {{"connection", connection_->number()}, {"why", std::string(why.message())}});
    Finish();
  }

  void Sweep(absl::Time now) override {
    absl::Time progressed;
    std::shared_ptr<Call> commit;
    {
      MutexLock lock(&mutex_);
      // If everything has arrived, the push only waits for its turn.
      if (phase_ == Phase::kEnded || (phase_ != Phase::kReceiving && missing_ == 0)) return;
      progressed = progressed_;
      commit = commit_;
    }
    if (now - progressed > context_->limits.push_progress) {
      End(absl::DeadlineExceededError("the push made no progress and was dropped"));
    } else if (commit != nullptr && now > commit->deadline()) {
      End(absl::DeadlineExceededError("the slabs of the push did not arrive within the deadline of its commit"));
    }
  }

 private:
  enum class Phase {
    kReceiving,   // the manifest is incomplete
    kComplete,    // the manifest is complete; no turn was requested yet
    kAccepting,   // the first turn was requested; it begins with the manifest
    kWaiting,     // between turns, for slabs
    kWriting,     // a turn was requested or is writing
    kCommitting,  // in the engine
    kEnded,       // as described by why_ and outcome_
  };
  enum class Event { kManifest, kTurn, kAccepted, kNothingLeft, kCommit, kEnd };
  // nullopt: the event cannot happen in this phase.
  static std::optional<Phase> After(Phase phase, Event event) {
    const auto from = [phase](Phase before, Phase after) {
      return phase == before ? std::optional(after) : std::nullopt;
    };
    switch (event) {
      case Event::kManifest:
        return from(Phase::kReceiving, Phase::kComplete);
      case Event::kTurn:
        return phase == Phase::kComplete ? std::optional(Phase::kAccepting) : from(Phase::kWaiting, Phase::kWriting);
      case Event::kAccepted:
        return from(Phase::kAccepting, Phase::kWriting);
      case Event::kNothingLeft:
        return from(Phase::kWriting, Phase::kWaiting);
      case Event::kCommit:
        return from(Phase::kWriting, Phase::kCommitting);
      case Event::kEnd:
        return phase == Phase::kEnded ? std::nullopt : std::optional(Phase::kEnded);
    }
    return std::nullopt;
  }
  // Returns false, changing nothing, if the event cannot happen in this phase.
  bool Pass(Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const std::optional<Phase> after = After(phase_, event);
    phase_ = after.value_or(phase_);
    return after.has_value();
  }

  // Shared with the network, which may touch the bytes until it drops its slices.
  struct Memory {
    std::unique_ptr<engine::StreamingPut> push;
  };
  struct Hold {
    std::shared_ptr<Memory> memory;
    std::shared_ptr<transport::RegisteredBuffer> buffer;
  };

  void Resume() {
    {
      MutexLock lock(&mutex_);
      asked_for_credit_ = false;
    }
    Advance();
  }

  absl::Status TakeRoomForManifest(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (phase_ == Phase::kEnded) return why_;
    if (phase_ != Phase::kReceiving) {
      return absl::InvalidArgumentError("the manifest of this push is complete already");
    }
    if (static_cast<int64_t>(manifest_.size()) + bytes > kMaxManifest) {
      return absl::InvalidArgumentError("the manifest is larger than 16 MiB");
    }
    if (context_->manifest_bytes.fetch_add(bytes) + bytes > context_->limits.manifest_bytes) {
      context_->manifest_bytes.fetch_sub(bytes);
      return absl::ResourceExhaustedError("manifests of pushes fill the room that the node has for them");
    }
    return absl::OkStatus();
  }

  absl::Status PostNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const size_t layer = next_++;
    KVLINK_RETURN_IF_ERROR(memory_->push->Reserve(static_cast<int64_t>(layer)));
    const engine::Place place = memory_->push->place(static_cast<int64_t>(layer));
    KVLINK_ASSIGN_OR_RETURN(transport::Slice slice,
                            context_->memory.Find(connection_->channel()->transport(), place, lengths_[layer]));
    const auto hold = std::make_shared<Hold>(Hold{memory_, std::move(slice.buffer)});
    slice.buffer = std::shared_ptr<transport::RegisteredBuffer>(hold, hold->buffer.get());
    open_.insert(layer);
    connection_->channel()->payloads()->PostReceive(
        first_payload_ + layer, std::move(slice), SteadyNow() + context_->limits.push_progress,
        [self = shared_from_this(), layer](const absl::Status& status, int64_t bytes) {
          self->Received(layer, status, bytes);
        });
    return absl::OkStatus();
  }

  void Received(size_t layer, const absl::Status& status, int64_t bytes) {
    absl::Status bad = status;
    if (bad.ok() && bytes != lengths_[layer]) {
      bad = absl::InvalidArgumentError(
          absl::StrCat("layer ", layer, " came with ", bytes, " bytes, and ", lengths_[layer], " were announced"));
    }
    {
      MutexLock lock(&mutex_);
      open_.erase(layer);
      if (bad.ok()) {
        --missing_;
        received_.insert(layer);
        progressed_ = SteadyNow();
      }
    }
    context_->push_credit.Return(owner_, lengths_[layer]);
    if (!bad.ok()) return End(absl::IsInvalidArgument(bad) ? bad : Annotate(bad, "a slab of the push did not arrive"));
    Advance();
    AskToWrite();
  }

  // Requests a turn, if there is something to write and no turn was requested yet.
  void AskToWrite() {
    {
      MutexLock lock(&mutex_);
      if (received_.empty() || !Pass(Event::kTurn)) return;
    }
    // Pushes are limited in number, and each requests one turn at a time, so they bypass the queue's limit.
    const absl::Status added = context_->indexing->AddAdmitted(
        {.work = [self = shared_from_this()](const absl::Status& turn) { self->Write(turn); }, .owner = owner_});
    if (!added.ok()) End(added);
  }

  // Writes everything that has arrived; the turn that writes the last slab commits.
  void Write(const absl::Status& turn) {
    absl::Status status = turn.ok() ? AcceptManifest() : turn;
    while (status.ok()) {
      std::shared_ptr<Memory> memory;  // kept while it is being written, even if the push ends meanwhile
      size_t layer = 0;
      {
        MutexLock lock(&mutex_);
        if (phase_ == Phase::kEnded) return;
        if (received_.empty()) {
          if (missing_ == 0) break;
          Pass(Event::kNothingLeft);
          return;
        }
        memory = memory_;
        layer = *received_.begin();
        received_.erase(received_.begin());
      }
      status = memory->push->WriteLayer(static_cast<int64_t>(layer));
    }
    if (!status.ok()) return End(status);
    CommitAll();
  }

  // Part of the first turn.
  absl::Status AcceptManifest() {
    std::string bytes;
    std::shared_ptr<Memory> memory;
    {
      MutexLock lock(&mutex_);
      if (phase_ != Phase::kAccepting) return absl::OkStatus();
      bytes = manifest_;
      memory = memory_;
    }
    KVLINK_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest({bytes.data(), bytes.size()}));
    KVLINK_RETURN_IF_ERROR(CheckManifest(manifest));
    KVLINK_RETURN_IF_ERROR(memory->push->Accept(manifest));
    MutexLock lock(&mutex_);
    Pass(Event::kAccepted);
    return absl::OkStatus();
  }

  void CommitAll() {
    std::unique_ptr<engine::StreamingPut> push;
    {
      MutexLock lock(&mutex_);
      if (phase_ == Phase::kEnded || !Pass(Event::kCommit)) return;
      push = std::move(memory_->push);
    }
    // The slot may move away before the commit: the writer would then count a copy that is not one and that no node
    // would fetch.
    const auto admit = [ownership = context_->core->ownership, identity = key_.identity] {
      return ownership->Takes(identity) ? absl::OkStatus() : MovedStatus(ownership->epoch());
    };
    context_->core->engine->CommitPush(
        std::move(push),
        [self = shared_from_this()](absl::StatusOr<engine::Engine::PutOutcome> outcome) { self->Done(outcome); },
        admit);
  }

  absl::Status CheckManifest(const Manifest& manifest) const {
    if (manifest.identity != key_.identity || manifest.codec != key_.codec) {
      return absl::InvalidArgumentError("the manifest is of another encoding than the push");
    }
    if (manifest.layers.size() != lengths_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the manifest has ", manifest.layers.size(), " layers, and the push has ", lengths_.size()));
    }
    for (size_t layer = 0; layer < lengths_.size(); ++layer) {
      if (manifest.layers[layer].length != lengths_[layer]) {
        return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " has ", manifest.layers[layer].length,
                                                       " bytes in the manifest, and ", lengths_[layer], " were sent"));
      }
    }
    return absl::OkStatus();
  }

  // Called when the commit has ended.
  void Done(const absl::StatusOr<engine::Engine::PutOutcome>& outcome) {
    {
      MutexLock lock(&mutex_);
      Pass(Event::kEnd);
      why_ = outcome.status();
      outcome_ = outcome.ok() ? std::optional(*outcome) : std::nullopt;
    }
    Finish();
  }

  // Called once, by the thread that ended the push: nothing more arrives or is written. Releases the memory and
  // answers.
  void Finish() {
    std::shared_ptr<Call> commit;
    absl::Status why;
    std::optional<engine::Engine::PutOutcome> outcome;
    {
      MutexLock lock(&mutex_);
      // Slices still in use keep it alive as long as they need it.
      memory_ = nullptr;
      commit = std::move(commit_);
      why = why_;
      outcome = outcome_;
    }
    connection_->RemoveTransfer(ClientConnection::Kind::kPush, id_);
    if (commit == nullptr) return;
    ReplyCache& answers = commit->session()->answers();
    if (!outcome.has_value()) {
      answers.Forget(id_);
      return commit->Refuse(why);
    }
    proto::Answer answer;
    answer.set_id(id_);
    answer.mutable_push_done()->set_etag(std::string(BytesOf(outcome->etag)));
    answer.mutable_push_done()->set_written(outcome->written);
    const std::string bytes = SerializeAnswer(answer, commit->connection()->protocol());
    answers.Finish(id_, bytes);
    commit->Repeat({bytes.data(), bytes.size()});
  }

  DataContext* const context_;
  const std::shared_ptr<ClientConnection> connection_;
  const uint64_t id_;
  const engine::EncodingKey key_;
  const std::string owner_;
  const std::vector<int64_t> lengths_;
  const uint64_t first_payload_;

  Mutex mutex_;
  std::shared_ptr<Memory> memory_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;            // next layer to get memory
  std::set<size_t> open_ ABSL_GUARDED_BY(mutex_);      // layers with memory, not filled yet
  int64_t missing_ ABSL_GUARDED_BY(mutex_) = 0;        // layers not received yet
  std::set<size_t> received_ ABSL_GUARDED_BY(mutex_);  // layers to be written
  bool asked_for_credit_ ABSL_GUARDED_BY(mutex_) = false;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kReceiving;
  absl::Time progressed_ ABSL_GUARDED_BY(mutex_);
  std::string manifest_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Call> commit_ ABSL_GUARDED_BY(mutex_);
  absl::Status why_ ABSL_GUARDED_BY(mutex_);  // how it ended; OK: see outcome_
  std::optional<engine::Engine::PutOutcome> outcome_ ABSL_GUARDED_BY(mutex_);
};

absl::Status Begin(const std::shared_ptr<Call>& call) {
  DataContext* const context = call->context();
  const proto::PushBegin& begin = call->request().push_begin();
  if (context->core->draining.begun()) {
    return absl::UnavailableError("the node is draining and takes no more pushes");
  }
  if (call->connection()->channel()->payloads() == nullptr) {
    return absl::FailedPreconditionError("payloads do not travel on this connection: push over another");
  }
  engine::EncodingKey key = call->KeyOf(begin.identity(), begin.codec());
  // Even if the encoding is already here: an answer from a node that does not own it must not count as a replica.
  if (!context->core->ownership->Takes(key.identity)) return MovedStatus(call->epoch());
  proto::Answer answer;
  if (const auto found = context->core->engine->Find(key); found.has_value()) {
    answer.mutable_push_ready()->set_etag(std::string(BytesOf(found->location.etag)));
    call->Answer(std::move(answer));
    return absl::OkStatus();
  }
  KVLINK_RETURN_IF_ERROR(context->core->namespaces.Admit(call->session()->grant(), key.ns));
  const std::vector<int64_t> lengths(begin.lengths().begin(), begin.lengths().end());
  KVLINK_ASSIGN_OR_RETURN(auto memory, context->core->engine->BeginPush(key, lengths));
  // Refuses here if the transport cannot reach the memory. The first slab already has its memory.
  const auto first = std::find_if(lengths.begin(), lengths.end(), [](int64_t length) { return length > 0; });
  const engine::Place place = memory->place(first - lengths.begin());
  KVLINK_RETURN_IF_ERROR(
      context->memory.Find(call->connection()->channel()->transport(), place, lengths[first - lengths.begin()])
          .status());
  const auto push = std::make_shared<Push>(call.get(), std::move(key), std::move(memory));
  KVLINK_RETURN_IF_ERROR(call->connection()->AddTransfer(ClientConnection::Kind::kPush, call->id(), push));
  answer.mutable_push_ready()->set_first_payload(push->first_payload());
  call->Answer(std::move(answer));
  push->Advance();
  return absl::OkStatus();
}

}  // namespace

void BeginPush(std::shared_ptr<Call> call) {
  const absl::Status status = Begin(call);
  if (!status.ok()) call->Refuse(status);
}

void CommitPush(std::shared_ptr<Call> call) {
  const auto push =
      std::dynamic_pointer_cast<Push>(call->connection()->FindTransfer(ClientConnection::Kind::kPush, call->id()));
  if (push != nullptr && call->request().push_commit().more()) return push->Commit(std::move(call));
  std::string answer;
  switch (call->session()->answers().Begin(call->id(), &answer)) {
    case ReplyCache::State::kAnswered:
      return call->Repeat({answer.data(), answer.size()});
    case ReplyCache::State::kUnderWay:
      return call->Refuse(absl::UnavailableError("this push is being committed: ask again"));
    case ReplyCache::State::kNew:
      break;
  }
  if (push != nullptr) return push->Commit(std::move(call));
  call->session()->answers().Forget(call->id());
  call->Refuse(absl::FailedPreconditionError(absl::StrCat(
      "no push ", call->id(), " is open on this connection: it was never begun, or was dropped; begin again")));
}

}  // namespace kvlink::store::node
