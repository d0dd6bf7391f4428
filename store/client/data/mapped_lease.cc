#include "store/client/data/mapped_lease.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/slab.h"
#include "base/status.h"

namespace kvlink::store::client {
namespace {

constexpr absl::Duration kGoodbye = absl::Seconds(30);

// The value of a generation's slot, loaded after all previous reads of the pages.
uint64_t GenerationNow(const uint64_t* slot) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
  std::atomic_thread_fence(std::memory_order_acquire);
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
  return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

}  // namespace

absl::Status SharedTier::WaitReady(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (generations_ == nullptr) {
    if (!problem_.ok()) return problem_;
    if (!changed_.WaitUntil(&mutex_, deadline)) {
      return absl::DeadlineExceededError("the node did not share its memory");
    }
  }
  return absl::OkStatus();
}

std::shared_ptr<const Mapping> SharedTier::Find(uint32_t memory, absl::string_view ns) const {
  MutexLock lock(&mutex_);
  const auto found = memories_.find(memory);
  return found == memories_.end() || found->second.ns != ns ? nullptr : found->second.mapping;
}

std::shared_ptr<const Mapping> SharedTier::generations() const {
  MutexLock lock(&mutex_);
  return generations_;
}

void SharedTier::Add(uint64_t lease, std::weak_ptr<LeaseState> state) {
  ++*held_;
  MutexLock lock(&mutex_);
  leases_[lease] = std::move(state);
}

void SharedTier::Remove(uint64_t lease) {
  MutexLock lock(&mutex_);
  if (leases_.erase(lease) > 0) --*held_;
}

void SharedTier::OnUnsolicited(const proto::Answer& answer, std::vector<Descriptor> descriptors) {
  if (answer.has_layers_ready()) {
    std::shared_ptr<LeaseState> state;
    {
      MutexLock lock(&mutex_);
      const auto found = leases_.find(answer.layers_ready().lease());
      if (found != leases_.end()) state = found->second.lock();
    }
    const absl::Status status(static_cast<absl::StatusCode>(answer.code()), answer.message());
    if (state != nullptr) state->OnLayersReady(status, answer.layers_ready().ready());
    return;
  }
  if (!answer.has_shared_memory()) return;
  const proto::SharedMemory& shared = answer.shared_memory();
  if (shared.bytes() == 0) {
    Memory gone;  // unmapped outside the lock, when the last lease in it has ended
    MutexLock lock(&mutex_);
    if (const auto found = memories_.find(shared.memory()); found != memories_.end()) {
      gone = std::move(found->second);
      memories_.erase(found);
    }
    return;
  }
  if (descriptors.size() != 1) return;
  auto mapping = Mapping::Map(descriptors[0], static_cast<int64_t>(shared.bytes()));
  MutexLock lock(&mutex_);
  if (!mapping.ok()) {
    problem_ = mapping.status();
  } else if (shared.ns().empty()) {
    generations_ = *std::move(mapping);
  } else {
    memories_[shared.memory()] = {shared.ns(), *std::move(mapping)};
  }
  changed_.SignalAll();
}

bool LeaseState::answered() const {
  MutexLock lock(&mutex_);
  return complete_ || !failed_.ok();
}

void LeaseState::TellAnswered() {
  changed_.SignalAll();
  if (const auto signal = std::exchange(signal_, nullptr)) signal->Answered();
}

absl::StatusOr<proto::Leased> LeaseState::Await(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (!complete_) {
    if (!failed_.ok()) return failed_;
    if (!changed_.WaitUntil(&mutex_, deadline) && !complete_ && failed_.ok()) {
      return absl::DeadlineExceededError("the node did not answer in time");
    }
  }
  return std::move(leased_);
}

absl::Status LeaseState::AwaitLayer(int64_t layer, absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (ready_ <= layer) {
    if (!failed_.ok()) return failed_;
    if (!changed_.WaitUntil(&mutex_, deadline) && ready_ <= layer && failed_.ok()) {
      return absl::DeadlineExceededError(absl::StrCat("layer ", layer, " did not arrive in time"));
    }
  }
  return absl::OkStatus();
}

void LeaseState::OnAnswer(const absl::Status& status, const proto::Answer& answer) {
  MutexLock lock(&mutex_);
  if (!status.ok()) {
    // The last answer. While the connection holds the caller, it also keeps this object.
    failed_ = status;
    TellAnswered();
    connection_->Forget(answer.id());
    return;
  }
  if (!answer.has_leased() || complete_) return;
  const proto::Leased& leased = answer.leased();
  if (!begun_) {
    begun_ = true;
    lease_ = leased.lease();
    request_ = answer.id();
    leased_ = leased;
    ready_ = leased.ready();
    tier_->Add(leased.lease(), weak_from_this());
  } else if (static_cast<int64_t>(leased_.manifest().size() + leased.manifest().size()) > kMaxManifest) {
    failed_ = absl::DataLossError("the node's manifest is too long");
  } else {
    leased_.mutable_manifest()->append(leased.manifest());
  }
  complete_ = !leased.more();
  if (complete_) connection_->Forget(request_);
  if (complete_ || !failed_.ok()) TellAnswered();
  if (released_ && complete_) GiveBack();
}

void LeaseState::OnLayersReady(const absl::Status& status, int64_t ready) {
  MutexLock lock(&mutex_);
  ready_ = std::max(ready_, ready);
  if (!status.ok() && failed_.ok()) {
    failed_ = absl::IsDataLoss(status) ? status : absl::UnavailableError(status.message());
  }
  changed_.SignalAll();
}

void LeaseState::OnClosed(const absl::Status& why) {
  MutexLock lock(&mutex_);
  if (failed_.ok()) failed_ = why;
  TellAnswered();
}

LeaseState::~LeaseState() { tier_->Remove(lease_); }

void LeaseState::Release() {
  MutexLock lock(&mutex_);
  if (std::exchange(released_, true)) return;
  if (const auto signal = std::exchange(signal_, nullptr)) signal->Answered();
  if (complete_) GiveBack();
}

void LeaseState::GiveBack() {
  tier_->Remove(lease_);
  proto::Request request = connection_->NewRequest("", SteadyNow() + kGoodbye);
  request.mutable_release()->add_leases(lease_);
  connection_->Tell(request);
}

absl::StatusOr<std::unique_ptr<MappedLease>> MappedLease::Ask(std::shared_ptr<NodeConnection> connection,
                                                              const EncodingAddress& address, absl::Time deadline,
                                                              std::shared_ptr<Signal> signal) {
  signal->Expect();
  const auto tier = std::static_pointer_cast<SharedTier>(connection->unsolicited());
  const auto state = std::make_shared<LeaseState>(connection, tier, std::move(signal));
  proto::Request request = connection->NewRequest(address.ns, deadline);
  proto::EncodingName* const name = request.mutable_lease()->mutable_name();
  name->set_identity(std::string(BytesOf(address.identity)));
  name->set_codec(static_cast<uint32_t>(address.codec));
  name->set_etag(std::string(BytesOf(address.etag)));
  std::unique_ptr<MappedLease> lease(new MappedLease(state));  // from now on its destructor returns it
  KVLINK_RETURN_IF_ERROR(connection->Ask(request, state));
  return lease;
}

absl::Status MappedLease::Start(const EncodingAddress& address, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const proto::Leased leased, state_->Await(deadline));
  return Prepare(leased, address);
}

MappedLease::~MappedLease() { state_->Release(); }

absl::Status MappedLease::Prepare(const proto::Leased& leased, const EncodingAddress& address) {
  ns_ = address.ns;
  auto parsed = ParseManifest(leased.manifest());
  if (!parsed.ok()) return absl::DataLossError(absl::StrCat("the node's manifest: ", parsed.status().message()));
  manifest_ = *std::move(parsed);
  if (manifest_.identity != address.identity || manifest_.codec != address.codec || manifest_.etag != address.etag) {
    return absl::DataLossError("the node answers with the manifest of another encoding");
  }
  source_ = static_cast<Tier>(leased.tier());
  generations_ = state_->tier().generations();
  if (generations_ == nullptr) return absl::FailedPreconditionError("the node shares no table of generations");
  if (leased.offsets_size() != static_cast<int>(manifest_.layers.size()) ||
      leased.memories_size() != leased.offsets_size() ||
      leased.generation_slot() >= static_cast<uint64_t>(generations_->size()) / sizeof(uint64_t)) {
    return absl::FailedPreconditionError("the node's lease does not fit its manifest");
  }
  for (size_t layer = 0; layer < manifest_.layers.size(); ++layer) {
    const uint64_t offset = leased.offsets(static_cast<int>(layer));
    const uint64_t length = static_cast<uint64_t>(manifest_.layers[layer].length);
    Slab& slab = slabs_.emplace_back();
    if (length == 0) continue;
    slab = {state_->tier().Find(leased.memories(static_cast<int>(layer)), address.ns), static_cast<int64_t>(offset)};
    if (slab.memory == nullptr) return absl::FailedPreconditionError("the node leases memory that it did not share");
    const uint64_t size = static_cast<uint64_t>(slab.memory->size());
    if (length > size || offset > size - length || offset % kSlabAlignment != 0) {
      return absl::FailedPreconditionError("the node leases memory outside of what it shares");
    }
  }
  slot_ = reinterpret_cast<const uint64_t*>(generations_->data()) + leased.generation_slot();
  generation_ = leased.generation();
  residency_ = leased.residency();
  return absl::OkStatus();
}

bool MappedLease::intact() const {
  if (lapsed_.load(std::memory_order_relaxed)) return false;
  if (GenerationNow(slot_) == generation_) return true;
  if (!lapsed_.exchange(true)) ++state_->tier().counters().lapsed_leases;
  return false;
}

absl::Status MappedLease::Lapsed() const {
  return absl::UnavailableError("the node has taken the memory of the encoding back");
}

absl::Span<const std::byte> MappedLease::layer(int64_t layer) const {
  const Slab& slab = slabs_[layer];
  if (slab.memory == nullptr) return {};
  return {slab.memory->data() + slab.offset, static_cast<size_t>(manifest_.layers[layer].length)};
}

absl::Status MappedLease::WaitLayer(int64_t layer, absl::Time deadline) {
  if (layer < 0 || layer >= static_cast<int64_t>(manifest_.layers.size())) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " of ", manifest_.layers.size()));
  }
  ClientCounters& counters = state_->tier().counters();
  const absl::Status there = state_->AwaitLayer(layer, deadline);
  if (absl::IsDeadlineExceeded(there)) ++counters.late_layers;
  KVLINK_RETURN_IF_ERROR(there);
  const absl::Span<const std::byte> slab = this->layer(layer);
  VerifiedLayers& verified = state_->tier().verified();
  if (slab.empty() || verified.Has(residency_, layer)) {
    counters.known_bytes += static_cast<int64_t>(slab.size());
    return intact() ? absl::OkStatus() : Lapsed();
  }
  const absl::Status status = manifest_.VerifyLayer(layer, slab);
  counters.verified_bytes += static_cast<int64_t>(slab.size());
  // Checked after reading the bytes, so that what was verified is what the lease covers.
  if (!intact()) return Lapsed();
  if (status.ok()) {
    verified.Add(residency_, layer, static_cast<int64_t>(manifest_.layers.size()));
    return status;
  }
  ++counters.corrupt_slabs;
  Suspect();
  return status;
}

void MappedLease::Suspect() const {
  proto::Request request = state_->connection()->NewRequest(ns_, SteadyNow() + kGoodbye);
  proto::EncodingAction* const action = request.mutable_action();
  action->set_action(proto::EncodingAction::SUSPECT);
  action->set_codec(static_cast<uint32_t>(manifest_.codec));
  action->set_identities(std::string(BytesOf(manifest_.identity)));
  state_->connection()->Tell(request);
}

}  // namespace kvlink::store::client
