#include "store/client/data/pull.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/control/retry.h"

namespace kvlink::store::client {
namespace {

bool Whole(const proto::Part& part) { return part.heads() == 0 && part.first_head() == 0 && part.tokens() == 0; }

// Converts a status for a waiter to one that store.h allows.
absl::Status AsWaited(const absl::Status& why) {
  if (absl::IsDataLoss(why) || absl::IsDeadlineExceeded(why) || absl::IsUnavailable(why)) return why;
  return absl::UnavailableError(absl::StrCat("the transfer ended: ", why.message()));
}

class PulledLease : public Lease {
 public:
  explicit PulledLease(std::shared_ptr<Pull> pull) : pull_(std::move(pull)) {}
  ~PulledLease() override { pull_->Release(); }
  const Manifest& manifest() const override { return pull_->manifest(); }
  Tier source() const override { return pull_->source(); }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline) override { return pull_->WaitLayer(layer, deadline); }
  absl::Span<const std::byte> layer(int64_t layer) const override {
    return pull_->Bytes(layer, 0, manifest().layers[layer].length);
  }
  bool on_device() const override { return pull_->on_device(); }

 private:
  const std::shared_ptr<Pull> pull_;
};

class PulledPart : public PartLease {
 public:
  PulledPart(std::shared_ptr<Pull> pull, int64_t tokens) : pull_(std::move(pull)), tokens_(tokens) {}
  ~PulledPart() override { pull_->Release(); }
  const Manifest& manifest() const override { return pull_->manifest(); }
  Tier source() const override { return pull_->source(); }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline) override { return pull_->WaitLayer(layer, deadline); }
  absl::Span<const std::byte> head(int64_t layer, int64_t head) const override {
    const SlabShape shape = manifest().shape(layer);
    const bool all = tokens_ == 0 || tokens_ >= shape.tokens;
    return pull_->Bytes(layer, shape.head_offset(head),
                        all ? shape.head_bytes() : tokens_ / kBlockTokens * shape.block_stride());
  }

 private:
  const std::shared_ptr<Pull> pull_;
  const int64_t tokens_;
};

}  // namespace

std::unique_ptr<Lease> LeaseOver(std::shared_ptr<Pull> pull) { return std::make_unique<PulledLease>(std::move(pull)); }

std::unique_ptr<PartLease> PartOver(std::shared_ptr<Pull> pull, int64_t tokens) {
  return std::make_unique<PulledPart>(std::move(pull), tokens);
}

Pull::Pull(const Context& context, std::shared_ptr<NodeConnection> connection, const EncodingAddress& address,
           std::shared_ptr<Signal> signal)
    : context_(context),
      connection_(connection->shared_from_this()),
      address_(address),
      receive_deadline_(SteadyNow() + context.transfer_timeout),
      use_(std::move(connection)),
      signal_(std::move(signal)) {}

absl::StatusOr<std::shared_ptr<Pull>> Pull::Begin(const Context& context, std::shared_ptr<NodeConnection> connection,
                                                  const EncodingAddress& address, const proto::Part& part,
                                                  absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(connection->pulls().Take(deadline));
  KVLINK_ASSIGN_OR_RETURN(auto pull, Ask(context, std::move(connection), address, part, nullptr));
  KVLINK_RETURN_IF_ERROR(pull->Start(part, deadline));
  return pull;
}

absl::StatusOr<std::shared_ptr<Pull>> Pull::Ask(const Context& context, std::shared_ptr<NodeConnection> connection,
                                                const EncodingAddress& address, const proto::Part& part,
                                                std::shared_ptr<Signal> signal) {
  auto pull = std::make_shared<Pull>(context, std::move(connection), address, std::move(signal));
  const absl::Status sent = pull->SendRequest(part);
  if (sent.ok()) return pull;
  pull->Release();
  return absl::IsCancelled(sent) ? AsWaited(sent) : sent;
}

bool Pull::answered() const {
  MutexLock lock(&mutex_);
  return started_ || !failed_.ok();
}

void Pull::TellAnswered() {
  changed_.SignalAll();
  if (const auto signal = std::exchange(signal_, nullptr)) signal->Raise();
}

absl::Status Pull::Start(const proto::Part& part, absl::Time deadline) {
  const absl::Status started = StartReceiving(part, deadline);
  if (started.ok()) return started;
  Release();
  return absl::IsCancelled(started) ? AsWaited(started) : started;
}

absl::Status Pull::SendRequest(const proto::Part& part) {
  {
    MutexLock lock(&mutex_);
    holds_slot_ = true;
  }
  // The bytes may arrive for longer than the caller waits for the manifest.
  proto::Request request = connection_->NewRequest(address_.ns, receive_deadline_);
  id_ = request.id();
  proto::Pull* const pull = request.mutable_pull();
  pull->mutable_name()->set_identity(std::string(BytesOf(address_.identity)));
  pull->mutable_name()->set_codec(static_cast<uint32_t>(address_.codec));
  pull->mutable_name()->set_etag(std::string(BytesOf(address_.etag)));
  *pull->mutable_part() = part;
  const uint32_t receives = Whole(part) ? uint32_t{kMaxLayers} : kMaxPieces;
  first_payload_ = connection_->NewPayloadIds(receives);
  pull->set_first_payload(first_payload_);
  pull->set_payloads(receives);
  return connection_->Ask(request, shared_from_this());
}

absl::Status Pull::StartReceiving(const proto::Part& part, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const std::string manifest, AwaitManifest(deadline));
  KVLINK_RETURN_IF_ERROR(Prepare(manifest, part));
  ++context_.counters->pulls;
  LandMore();
  return absl::OkStatus();
}

absl::StatusOr<std::string> Pull::AwaitManifest(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (!started_) {
    if (!failed_.ok()) return failed_;
    if (!changed_.WaitUntil(&mutex_, deadline) && !started_ && failed_.ok()) {
      return absl::DeadlineExceededError("the node did not answer the pull in time");
    }
  }
  return std::move(manifest_bytes_);
}

absl::Status Pull::Prepare(const std::string& manifest, const proto::Part& part) {
  auto parsed = ParseManifest(manifest);
  if (!parsed.ok()) return absl::DataLossError(absl::StrCat("the node's manifest: ", parsed.status().message()));
  manifest_ = *std::move(parsed);
  if (manifest_.identity != address_.identity || manifest_.codec != address_.codec || manifest_.etag != address_.etag) {
    return absl::DataLossError("the node answered with the manifest of another encoding");
  }
  KVLINK_ASSIGN_OR_RETURN(pieces_, PiecesOf(manifest_, part));
  std::vector<int64_t> lengths;
  for (size_t i = 0; i < pieces_.size(); ++i) lengths.push_back(pieces_[i].length);
  size_t piece = 0;
  for (size_t layer = 0; layer <= manifest_.layers.size(); ++layer) {
    while (piece < pieces_.size() && pieces_[piece].layer < static_cast<int64_t>(layer)) ++piece;
    first_piece_.push_back(piece);
  }
  KVLINK_ASSIGN_OR_RETURN(auto slices, TakeMemory(lengths));
  MutexLock lock(&mutex_);
  slices_ = std::move(slices);
  states_.assign(pieces_.size(), State::kPending);
  awaited_.assign(pieces_.size(), false);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<transport::Slice>> Pull::TakeMemory(absl::Span<const int64_t> lengths) {
  if (context_.region != nullptr) {
    auto slices = context_.region->Take(lengths);
    on_device_ = slices.ok();
    ++(on_device_ ? context_.counters->device_pulls : context_.counters->device_fallbacks);
    if (on_device_) return slices;
  }
  return context_.receive_memory->Take(lengths);
}

void Pull::LandMore() {
  MutexLock lock(&mutex_);
  while (!stopped_ && next_ < pieces_.size() && receiving_ < connection_->receives_per_pull()) {
    const size_t piece = next_++;
    ++receiving_;
    states_[piece] = State::kReceiving;
    connection_->carrier()->PostReceive(first_payload_ + piece, slices_[piece], receive_deadline_,
                                        [self = shared_from_this(), piece](const absl::Status& status, int64_t bytes) {
                                          self->OnReceived(piece, status, bytes);
                                        });
  }
}

void Pull::OnReceived(size_t piece, const absl::Status& status, int64_t bytes) {
  absl::Status failed = status;
  if (failed.ok() && bytes != pieces_[piece].length) {
    failed = absl::DataLossError(
        absl::StrCat("layer ", pieces_[piece].layer, ": ", bytes, " of ", pieces_[piece].length, " bytes arrived"));
  }
  {
    MutexLock lock(&mutex_);
    --receiving_;
    if (stopped_) return;
    if (failed.ok()) {
      states_[piece] = State::kReceived;
      if (awaited_[piece]) changed_.SignalAll();
    }
  }
  if (!failed.ok()) return Fail(failed, /*tell_node=*/true);
  context_.verifier->Submit([self = shared_from_this(), piece] { self->Verify(piece); });
  LandMore();
}

void Pull::Verify(size_t piece) {
  transport::Slice slice;  // keeps the memory even if the pull is released meanwhile
  {
    MutexLock lock(&mutex_);
    if (stopped_ || states_[piece] != State::kReceived) return;
    states_[piece] = State::kVerifying;
    slice = slices_[piece];
  }
  const absl::Status verified = VerifyBytes(pieces_[piece], slice);
  context_.counters->verified_bytes += slice.length;
  if (absl::IsDataLoss(verified)) {
    ++context_.counters->corrupt_slabs;
    Suspect();
  }
  if (!verified.ok()) return Fail(verified, /*tell_node=*/true);
  MutexLock lock(&mutex_);
  states_[piece] = State::kGood;
  ++good_;
  if (awaited_[piece]) changed_.SignalAll();
  if (good_ < pieces_.size() || stopped_) return;
  Stop(/*tell_node=*/false);
  if (on_device_) context_.region->Ended(/*good=*/true);
}

absl::Status Pull::VerifyBytes(const Piece& piece, const transport::Slice& slice) const {
  if (on_device_) return context_.region->Verify(manifest_, piece, slice);
  // The zeros after the last head belong to no unit, so no checksum covers them.
  const int64_t used = manifest_.shape(piece.layer).used_bytes();
  if (piece.offset + piece.length > used) {
    std::memset(slice.data() + (used - piece.offset), 0, piece.offset + piece.length - used);
  }
  return VerifyPiece(manifest_, piece, [&](auto offsets, auto lengths, auto out) {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = Checksum64({slice.data() + offsets[i], static_cast<size_t>(lengths[i])});
    }
    return absl::OkStatus();
  });
}

void Pull::Suspect() {
  proto::Request request = connection_->NewRequest(address_.ns, receive_deadline_);
  proto::EncodingAction* const action = request.mutable_action();
  action->set_action(proto::EncodingAction::SUSPECT);
  action->set_codec(static_cast<uint32_t>(address_.codec));
  action->set_identities(std::string(BytesOf(address_.identity)));
  connection_->Tell(request);
}

void Pull::Fail(absl::Status why, bool tell_node) {
  MutexLock lock(&mutex_);
  if (stopped_) return;
  failed_ = std::move(why);
  if (!states_.empty()) ++context_.counters->failed_pulls;
  if (!states_.empty() && on_device_) context_.region->Ended(/*good=*/false);
  TellAnswered();
  Stop(tell_node);
}

void Pull::Stop(bool tell_node) {
  stopped_ = true;
  use_ = nullptr;
  if (const auto signal = std::exchange(signal_, nullptr)) signal->Raise();
  connection_->Forget(id_);
  if (holds_slot_) connection_->pulls().Give();
  holds_slot_ = false;
  for (size_t piece = 0; piece < next_; ++piece) {
    if (states_[piece] == State::kReceiving) connection_->carrier()->CancelReceive(first_payload_ + piece);
  }
  if (!tell_node || id_ == 0) return;
  proto::Request request = connection_->NewRequest(address_.ns, receive_deadline_);
  request.mutable_cancel()->set_request(id_);
  connection_->Tell(request);
}

void Pull::Release() {
  std::vector<transport::Slice> slices;
  MutexLock lock(&mutex_);
  if (!stopped_) Stop(/*tell_node=*/true);
  slices.swap(slices_);
}

absl::Status Pull::WaitLayer(int64_t layer, absl::Time deadline) {
  if (layer < 0 || layer >= static_cast<int64_t>(manifest_.layers.size())) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " of ", manifest_.layers.size()));
  }
  ReleasableMutexLock lock(&mutex_);
  for (size_t piece = first_piece_[layer]; piece < first_piece_[layer + 1]; ++piece) {
    while (states_[piece] != State::kGood) {
      if (!failed_.ok()) return AsWaited(failed_);
      if (states_[piece] == State::kReceived) {
        lock.Release();
        Verify(piece);
        lock.Reacquire();
        continue;
      }
      awaited_[piece] = true;
      if (!changed_.WaitUntil(&mutex_, deadline) && states_[piece] != State::kGood && failed_.ok()) {
        ++context_.counters->late_layers;
        return absl::DeadlineExceededError(absl::StrCat("layer ", layer, " did not arrive in time"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Span<const std::byte> Pull::Bytes(int64_t layer, int64_t offset, int64_t length) const {
  MutexLock lock(&mutex_);
  for (size_t i = first_piece_[layer]; i < first_piece_[layer + 1]; ++i) {
    const Piece& piece = pieces_[i];
    if (offset >= piece.offset && offset + length <= piece.offset + piece.length) {
      return {slices_[i].data() + (offset - piece.offset), static_cast<size_t>(length)};
    }
  }
  return {};
}

void Pull::OnAnswer(const absl::Status& status, const proto::Answer& answer) {
  if (!status.ok()) return Fail(status, /*tell_node=*/false);
  if (!answer.has_pull_started()) return;  // PullDone: payloads may still be on their way
  MutexLock lock(&mutex_);
  if (started_ || stopped_) return;
  const proto::PullStarted& started = answer.pull_started();
  if (static_cast<int64_t>(manifest_bytes_.size() + started.manifest().size()) > kMaxManifest) {
    failed_ = absl::DataLossError("the node's manifest is too long");
    TellAnswered();
    return;
  }
  if (manifest_bytes_.empty()) tier_ = static_cast<Tier>(started.tier());
  manifest_bytes_ += started.manifest();
  started_ = !started.more();
  if (started_) TellAnswered();
}

void Pull::OnClosed(const absl::Status& why) { Fail(why, /*tell_node=*/false); }

}  // namespace kvlink::store::client
