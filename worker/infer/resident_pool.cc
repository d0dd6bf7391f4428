#include "worker/infer/resident_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"

namespace kvlink::infer {
namespace {

// How often a call that waits for room checks for cancellation.
constexpr absl::Duration kAskEvery = absl::Milliseconds(50);

// Whether the manifest describes equal layers of the shape this model reads. Otherwise it belongs to another model or
// document, whatever its name.
bool Fits(const Manifest& manifest, int64_t layers, const SlabShape& wanted, const Fingerprint& fingerprint) {
  if (manifest.model != fingerprint || manifest.codec != wanted.codec || manifest.tokens != wanted.tokens ||
      static_cast<int64_t>(manifest.layers.size()) != layers) {
    return false;
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (manifest.layers[layer].components.empty()) return false;
    const SlabShape shape = manifest.shape(layer);
    if (shape.codec != wanted.codec || shape.kv_heads != wanted.kv_heads || shape.head_dim != wanted.head_dim ||
        shape.tokens != wanted.tokens || shape.slab_bytes() != manifest.layers[layer].length) {
      return false;
    }
  }
  return true;
}

}  // namespace

ResidentPool::ResidentPool(store::Store* store, const model::Model* model, const Fingerprint& fingerprint,
                           const Options& options)
    : store_(store),
      model_(model),
      fingerprint_(fingerprint),
      options_(options),
      hard_(model->backend()->device().type != kernels::DeviceType::kCpu),
      decoder_(model->backend(), &model->rope()),
      host_(hard_ && options.host_bytes > 0 ? std::make_unique<HostTier>(model->backend(), options.host_bytes)
                                            : nullptr),
      deps_{&decoder_, host_.get()} {}

SlabShape ResidentPool::Shape(int64_t tokens) const {
  const model::ModelConfig& config = model_->config();
  return {.codec = options_.codec, .kv_heads = config.kv_heads, .head_dim = config.head_dim, .tokens = tokens};
}

int64_t ResidentPool::BytesOf(const Wanted& wanted) const {
  return Resident::Bytes(Shape(wanted.tokens), model_->config().layers);
}

absl::StatusOr<std::vector<ResidentPool::Acquired>> ResidentPool::Acquire(absl::Span<const Wanted> wanted,
                                                                          const Patience& patience) {
  for (const bool join : {true, false}) {
    KVLINK_ASSIGN_OR_RETURN(Admission admission, Admit(wanted, join, patience));
    if (host_ != nullptr) {
      for (const Acquired& answer : admission.answers) {
        if (answer.resident != nullptr) host_->Find(answer.resident->identity());  // mark it as recently used
      }
    }
    const absl::Time deadline = std::min(patience.deadline, SteadyNow() + options_.load_timeout);
    const absl::Status allocated = AllocateRooms(admission);
    Load(allocated.ok(), wanted, admission, deadline);
    KVLINK_RETURN_IF_ERROR(allocated);
    if (Join(wanted, admission, deadline)) return std::move(admission.answers);
    // Encodings that other calls failed to load need room of this call's own: start over, holding nothing.
  }
  return absl::InternalError("resident pool: a call that joins no other one waited for one");
}

absl::StatusOr<ResidentPool::Admission> ResidentPool::Admit(absl::Span<const Wanted> wanted, bool join,
                                                            const Patience& patience) {
  Admission admission;
  ReleasableMutexLock lock(&mutex_);
  if (TryAdmit(wanted, join, patience.holds || turns_.empty(), &admission)) return admission;
  int64_t bytes = 0;
  for (const Wanted& one : wanted) bytes += BytesOf(one);
  const auto exhausted = [&](absl::string_view why) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no room for ", bytes, " bytes of encodings in a budget of ", options_.budget_bytes, " for all requests", why,
        "; use fewer documents, or raise the budget (--device-memory, or --memory with --device cpu)"));
  };
  if (bytes > options_.budget_bytes) return absl::InvalidArgumentError(exhausted("").message());
  ++stats_.waits;
  const auto turn = turns_.emplace(turns_.end());
  absl::Status status;
  while (!TryAdmit(wanted, join, patience.holds || turn == turns_.begin(), &admission)) {
    const absl::Time now = SteadyNow();
    if (now >= patience.deadline) {
      status = exhausted(": other requests held it until this one timed out");
      break;
    }
    changed_.WaitUntil(&mutex_, std::min(patience.deadline, now + kAskEvery));
    if (!patience.cancelled) continue;
    lock.Release();  // the caller's code must not run under the lock
    const bool cancelled = patience.cancelled();
    lock.Reacquire();
    if (!cancelled) continue;
    status = absl::CancelledError("the request was cancelled");
    break;
  }
  turns_.erase(turn);
  changed_.SignalAll();  // it may be the next one's turn
  KVLINK_RETURN_IF_ERROR(status);
  return admission;
}

bool ResidentPool::TryAdmit(absl::Span<const Wanted> wanted, bool join, bool turn, Admission* admission) {
  *admission = {};
  admission->answers.resize(wanted.size());
  std::vector<size_t> needy;  // those that need room
  std::vector<Lru::iterator> hits;
  int64_t bytes = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto place = Place(wanted[i].identity);
    const Resident* there = place == lru_.end() ? nullptr : place->resident.get();
    if (there != nullptr && there->tokens() == wanted[i].tokens && (wanted[i].ask_store || there->certain())) {
      admission->answers[i].resident = place->resident;
      hits.push_back(place);
      continue;
    }
    if (place == lru_.end() && wanted[i].ask_store) {
      admission->mine.push_back(i);
    } else if (place != lru_.end() && there == nullptr && wanted[i].ask_store && join) {
      admission->others.push_back(i);
      continue;
    }
    needy.push_back(i);
    bytes += BytesOf(wanted[i]);
  }
  if ((bytes > 0 && !turn) || !MakeRoom(bytes)) {
    *admission = {};
    return false;
  }
  for (size_t i : needy) admission->answers[i].reservation = Reservation(&used_, BytesOf(wanted[i]));
  for (size_t i : admission->mine) {
    lru_.push_back({wanted[i].identity, nullptr});
    index_[wanted[i].identity] = std::prev(lru_.end());
  }
  for (const Lru::iterator& place : hits) lru_.splice(lru_.end(), lru_, place);
  stats_.hits += static_cast<int64_t>(hits.size());
  return true;
}

absl::Status ResidentPool::AllocateRooms(Admission& admission) {
  if (!decoder_.Decodes(options_.codec)) return absl::OkStatus();
  for (Acquired& answer : admission.answers) {
    if (answer.reservation.bytes() == 0) continue;
    auto memory = model_->backend()->Allocate(answer.reservation.bytes());
    if (absl::IsResourceExhausted(memory.status())) {
      Clear();  // unreferenced residents may be what fills it
      memory = model_->backend()->Allocate(answer.reservation.bytes());
    }
    if (!memory.ok()) return memory.status();
    answer.reservation.memory = *std::move(memory);
  }
  return absl::OkStatus();
}

void ResidentPool::Load(bool memory, absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline) {
  if (admission.mine.empty()) return;
  std::vector<std::shared_ptr<Resident>> loaded(admission.mine.size());
  for (size_t k = 0; memory && k < loaded.size(); ++k) {
    const size_t i = admission.mine[k];
    admission.answers[i].asked = SteadyNow();
    loaded[k] = LoadFromHost(wanted[i], admission.answers[i].reservation);
  }
  if (memory && store_ != nullptr) LoadFromStore(wanted, admission, deadline, absl::MakeSpan(loaded));
  MutexLock lock(&mutex_);
  for (size_t k = 0; k < loaded.size(); ++k) {
    const size_t i = admission.mine[k];
    Settle(wanted[i], std::move(loaded[k]), &admission.answers[i]);
  }
  changed_.SignalAll();
  TrimTo(options_.budget_bytes);
}

std::shared_ptr<Resident> ResidentPool::LoadFromHost(const Wanted& wanted, Reservation& reservation) {
  if (host_ == nullptr) return nullptr;
  std::shared_ptr<const HostCopy> copy = host_->Find(wanted.identity);
  if (copy == nullptr || copy->stored().tokens != wanted.tokens) return nullptr;
  return Resident::FromHost(wanted.identity, std::move(copy), std::move(reservation), deps_);
}

void ResidentPool::LoadFromStore(absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline,
                                 absl::Span<std::shared_ptr<Resident>> loaded) {
  std::vector<Identity> identities;
  std::vector<size_t> missing;  // of loaded
  for (size_t k = 0; k < loaded.size(); ++k) {
    if (loaded[k] != nullptr) continue;
    identities.push_back(wanted[admission.mine[k]].identity);
    missing.push_back(k);
  }
  if (missing.empty()) return;
  const absl::Time began = SteadyNow();
  const auto found = store_->Lookup(options_.ns, identities, options_.codec);
  const Phase lookup = {began, SteadyNow()};
  for (const size_t k : missing) {
    Acquired& answer = admission.answers[admission.mine[k]];
    answer.lookup = lookup;
    answer.asked = lookup.ended;
  }
  if (!found.ok() || found->size() != identities.size()) return CountError();
  // Ask for all encodings of a request together, so that a node takes one round trip.
  std::vector<store::ReadRequest> reads;
  std::vector<size_t> present;  // of loaded
  for (size_t n = 0; n < missing.size(); ++n) {
    if (!(*found)[n].present) continue;
    reads.push_back({identities[n], (*found)[n].etag});
    present.push_back(missing[n]);
  }
  if (reads.empty()) return;
  auto leases = ReadMany(reads, deadline);
  for (size_t n = 0; n < present.size(); ++n) {
    const size_t i = admission.mine[present[n]];
    loaded[present[n]] = ResidentOver(wanted[i], std::move(leases[n]), admission.answers[i].reservation);
  }
}

std::vector<absl::StatusOr<std::unique_ptr<store::Lease>>> ResidentPool::ReadMany(
    absl::Span<const store::ReadRequest> reads, absl::Time deadline) {
  auto leases = store_->ReadMany(options_.device_buffer.get(), options_.ns, options_.codec, reads, deadline);
  std::vector<size_t> exhausted;
  std::vector<store::ReadRequest> again;
  for (size_t i = 0; i < leases.size(); ++i) {
    if (!absl::IsResourceExhausted(leases[i].status())) continue;
    exhausted.push_back(i);
    again.push_back(reads[i]);
  }
  if (again.empty()) return leases;
  // Leases held only by this pool may be what fills the tier.
  Clear();
  auto others = store_->ReadMany(options_.device_buffer.get(), options_.ns, options_.codec, again, deadline);
  for (size_t k = 0; k < exhausted.size(); ++k) leases[exhausted[k]] = std::move(others[k]);
  return leases;
}

std::shared_ptr<Resident> ResidentPool::ResidentOver(const Wanted& wanted,
                                                     absl::StatusOr<std::unique_ptr<store::Lease>> lease,
                                                     Reservation& reservation) {
  if (!lease.ok()) {
    if (!absl::IsNotFound(lease.status())) CountError();
    return nullptr;
  }
  const Manifest& manifest = (*lease)->manifest();
  if (manifest.identity != wanted.identity ||
      !Fits(manifest, model_->config().layers, Shape(wanted.tokens), fingerprint_)) {
    CountError();
    return nullptr;
  }
  return Resident::FromLease(*std::move(lease), std::move(reservation), deps_);
}

void ResidentPool::Settle(const Wanted& wanted, std::shared_ptr<Resident> loaded, Acquired* answer) {
  if (loaded == nullptr) {
    ++stats_.misses;
  } else {
    ++(loaded->from_host()                      ? stats_.loads_host
       : loaded->source() == store::Tier::kDram ? stats_.loads_dram
                                                : stats_.loads_disk);
    stats_.loads_direct += loaded->received_on_device() ? 1 : 0;
  }
  const auto it = index_.find(wanted.identity);
  if (it != index_.end() && it->second->resident != nullptr) {
    // Insert has put an encoding into the place meanwhile.
    answer->resident = it->second->resident;
    answer->reservation = {};
    return;
  }
  answer->resident = loaded;
  answer->loaded = loaded != nullptr;
  if (it == index_.end()) return;  // one was inserted and already dropped again
  if (loaded != nullptr) {
    it->second->resident = std::move(loaded);
  } else {
    lru_.erase(it->second);
    index_.erase(it);
  }
}

bool ResidentPool::Join(absl::Span<const Wanted> wanted, Admission& admission, absl::Time deadline) {
  MutexLock lock(&mutex_);
  for (size_t i : admission.others) {
    while (true) {
      const auto it = index_.find(wanted[i].identity);
      if (it == index_.end()) return false;
      if (it->second->resident != nullptr) {
        if (it->second->resident->tokens() != wanted[i].tokens) return false;
        admission.answers[i].resident = it->second->resident;
        ++stats_.hits;
        break;
      }
      if (!changed_.WaitUntil(&mutex_, deadline)) return false;
    }
  }
  return true;
}

std::shared_ptr<Resident> ResidentPool::Insert(std::shared_ptr<const encode::Encoded> encoded,
                                               Reservation reservation) {
  std::shared_ptr<Resident> resident = Resident::FromEncoded(std::move(encoded), std::move(reservation), deps_);
  MutexLock lock(&mutex_);
  const auto place = Place(resident->identity());
  if (place == lru_.end()) {
    lru_.push_back({resident->identity(), resident});
    index_[resident->identity()] = std::prev(lru_.end());
  } else {
    std::shared_ptr<Resident>& there = place->resident;
    if (there != nullptr && there->certain()) return there;
    // That one is still arriving and may fail; this one cannot.
    there = resident;
  }
  changed_.SignalAll();
  TrimTo(options_.budget_bytes);
  return resident;
}

std::vector<std::shared_ptr<Resident>> ResidentPool::FindAll(absl::Span<const Wanted> wanted) {
  std::vector<std::shared_ptr<Resident>> found;
  {
    MutexLock lock(&mutex_);
    std::vector<Lru::iterator> places;
    for (const Wanted& one : wanted) {
      const auto place = Place(one.identity);
      if (place == lru_.end() || place->resident == nullptr) return {};
      if (place->resident->tokens() != one.tokens || !place->resident->ready()) return {};
      places.push_back(place);
    }
    for (const Lru::iterator& place : places) {
      found.push_back(place->resident);
      lru_.splice(lru_.end(), lru_, place);
    }
    stats_.hits += static_cast<int64_t>(found.size());
  }
  for (size_t i = 0; host_ != nullptr && i < found.size(); ++i) host_->Find(wanted[i].identity);
  return found;
}

std::shared_ptr<Resident> ResidentPool::Find(const Identity& identity) {
  MutexLock lock(&mutex_);
  const auto place = Place(identity);
  return place == lru_.end() ? nullptr : place->resident;
}

ResidentPool::Lru::iterator ResidentPool::Place(const Identity& identity) {
  const auto it = index_.find(identity);
  if (it == index_.end()) return lru_.end();
  if (it->second->resident == nullptr || it->second->resident->intact()) return it->second;
  DropPlace(it->second);
  return lru_.end();
}

void ResidentPool::DropPlace(Lru::iterator place) {
  ++stats_.dropped;
  index_.erase(place->identity);
  lru_.erase(place);
}

void ResidentPool::Drop(const Resident* resident) {
  MutexLock lock(&mutex_);
  const auto it = index_.find(resident->identity());
  if (it != index_.end() && it->second->resident.get() == resident) DropPlace(it->second);
}

void ResidentPool::Trim() {
  MutexLock lock(&mutex_);
  // Otherwise residents that no request waits for would keep their room after they arrive.
  for (auto it = lru_.begin(); it != lru_.end();) {
    const bool left = it->idle() && it->resident->received_on_device() && !it->resident->ready();
    it = left ? Evict(it) : std::next(it);
  }
  TrimTo(options_.budget_bytes);
  changed_.SignalAll();
}

void ResidentPool::Clear() {
  MutexLock lock(&mutex_);
  TrimTo(0);
  changed_.SignalAll();
}

bool ResidentPool::MakeRoom(int64_t bytes) {
  if (!hard_ || bytes == 0) return true;
  const int64_t most = options_.budget_bytes - bytes;
  int64_t idle = 0;
  for (const Entry& entry : lru_) idle += entry.idle() ? entry.resident->bytes() : 0;
  if (used_ - idle > most) return false;
  TrimTo(most);
  return true;
}

void ResidentPool::TrimTo(int64_t bytes) {
  for (auto it = lru_.begin(); used_ > bytes && it != lru_.end();) {
    it = it->idle() ? Evict(it) : std::next(it);
  }
}

ResidentPool::Lru::iterator ResidentPool::Evict(Lru::iterator place) {
  ++stats_.evictions;
  index_.erase(place->identity);
  return lru_.erase(place);
}

void ResidentPool::CountError() {
  MutexLock lock(&mutex_);
  ++stats_.store_errors;
}

ResidentPool::Stats ResidentPool::stats() const {
  MutexLock lock(&mutex_);
  Stats stats = stats_;
  if (host_ != nullptr) stats.host = host_->stats();
  if (options_.device_buffer != nullptr) stats.device_buffer_bytes = options_.device_buffer->used();
  stats.bytes = used_;
  for (const Entry& entry : lru_) stats.residents += entry.resident != nullptr ? 1 : 0;
  return stats;
}

}  // namespace kvlink::infer
