#include "worker/infer/resident_pool.h"

#include <utility>

#include "base/status.h"

namespace kvlink::infer {
namespace {

// Whether the manifest describes equal layers of the shape this model reads. Anything else is another model's, whatever
// its name.
bool Fits(const Manifest& manifest, const model::ModelConfig& config, Codec codec, const Fingerprint& fingerprint) {
  if (manifest.model != fingerprint || manifest.codec != codec || manifest.tokens < 1 ||
      static_cast<int64_t>(manifest.layers.size()) != config.layers) {
    return false;
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (manifest.layers[layer].components.empty()) return false;
    const SlabShape shape = manifest.shape(layer);
    if (shape.codec != codec || shape.kv_heads != config.kv_heads || shape.head_dim != config.head_dim ||
        shape.tokens != manifest.tokens || shape.slab_bytes() != manifest.layers[layer].length) {
      return false;
    }
  }
  return true;
}

}  // namespace

ResidentPool::ResidentPool(store::Store* store, const model::Model* model, const Fingerprint& fingerprint,
                           const Options& options)
    : store_(store), model_(model), fingerprint_(fingerprint), options_(options) {}

std::vector<ResidentPool::Acquired> ResidentPool::Acquire(absl::Span<const Identity> identities, absl::Time deadline) {
  std::vector<Acquired> answers(identities.size());
  std::vector<size_t> mine;    // this call loads these
  std::vector<size_t> others;  // another call is loading these
  std::vector<Identity> wanted;
  {
    MutexLock lock(&mutex_);
    for (size_t i = 0; i < identities.size(); ++i) {
      const auto place = Place(identities[i]);
      if (place == lru_.end()) {
        lru_.push_back({identities[i], nullptr});
        index_[identities[i]] = std::prev(lru_.end());
        mine.push_back(i);
        wanted.push_back(identities[i]);
      } else if (place->resident == nullptr) {
        others.push_back(i);
      } else {
        lru_.splice(lru_.end(), lru_, place);
        answers[i].resident = place->resident;
        ++stats_.hits;
      }
    }
  }
  if (!mine.empty()) {
    std::vector<std::shared_ptr<Resident>> loaded = Load(wanted, deadline);
    MutexLock lock(&mutex_);
    for (size_t k = 0; k < mine.size(); ++k) answers[mine[k]] = Settle(wanted[k], loaded[k]);
    loaded_.SignalAll();
    TrimTo(options_.budget_bytes);
  }
  MutexLock lock(&mutex_);
  for (size_t i : others) {
    while (true) {
      const auto it = index_.find(identities[i]);
      if (it == index_.end()) break;  // the other call found nothing
      if (it->second->resident != nullptr) {
        answers[i].resident = it->second->resident;
        ++stats_.hits;
        break;
      }
      if (!loaded_.WaitUntil(&mutex_, deadline) && absl::Now() >= deadline) break;
    }
  }
  return answers;
}

ResidentPool::Acquired ResidentPool::Settle(const Identity& identity, std::shared_ptr<Resident> loaded) {
  if (loaded == nullptr) {
    ++stats_.misses;
  } else {
    ++(loaded->source() == store::Tier::kDram ? stats_.loads_dram : stats_.loads_segments);
  }
  const auto it = index_.find(identity);
  // Insert may have put an encoding into the place meanwhile, and that one may even have been dropped again.
  if (it == index_.end()) return {std::move(loaded), true};
  if (it->second->resident != nullptr) return {it->second->resident, false};
  if (loaded == nullptr) {
    lru_.erase(it->second);
    index_.erase(it);
    return {};
  }
  bytes_ += loaded->bytes();
  it->second->resident = loaded;
  return {std::move(loaded), true};
}

std::vector<std::shared_ptr<Resident>> ResidentPool::Load(absl::Span<const Identity> identities, absl::Time deadline) {
  std::vector<std::shared_ptr<Resident>> loaded(identities.size());
  if (store_ == nullptr) return loaded;
  const auto found = store_->Lookup(options_.ns, identities, options_.codec);
  if (!found.ok() || found->size() != identities.size()) {
    CountError();
    return loaded;
  }
  for (size_t i = 0; i < identities.size(); ++i) {
    if ((*found)[i].present) loaded[i] = LoadOne(identities[i], (*found)[i], deadline);
  }
  return loaded;
}

std::shared_ptr<Resident> ResidentPool::LoadOne(const Identity& identity, const store::Found& found,
                                                absl::Time deadline) {
  auto lease = store_->Read(options_.ns, identity, options_.codec, found.etag, deadline);
  if (absl::IsResourceExhausted(lease.status())) {
    // Leases that only this pool still holds may be what fills the tier.
    Clear();
    lease = store_->Read(options_.ns, identity, options_.codec, found.etag, deadline);
  }
  if (!lease.ok()) {
    if (!absl::IsNotFound(lease.status())) CountError();
    return nullptr;
  }
  if ((*lease)->manifest().identity != identity ||
      !Fits((*lease)->manifest(), model_->config(), options_.codec, fingerprint_)) {
    CountError();
    return nullptr;
  }
  auto resident = Resident::FromLease(*std::move(lease), model_->backend(), &model_->rope());
  if (!resident.ok()) {
    CountError();
    return nullptr;
  }
  return *std::move(resident);
}

absl::StatusOr<std::shared_ptr<Resident>> ResidentPool::Insert(std::shared_ptr<const encode::Encoded> encoded) {
  KVLINK_ASSIGN_OR_RETURN(std::shared_ptr<Resident> resident,
                          Resident::FromEncoded(std::move(encoded), model_->backend(), &model_->rope()));
  MutexLock lock(&mutex_);
  const auto place = Place(resident->identity());
  if (place == lru_.end()) {
    lru_.push_back({resident->identity(), resident});
    index_[resident->identity()] = std::prev(lru_.end());
  } else {
    std::shared_ptr<Resident>& there = place->resident;
    if (there != nullptr && there->ready()) return there;
    // One that is still landing may yet fail; this one cannot.
    if (there != nullptr) bytes_ -= there->bytes();
    there = resident;
    loaded_.SignalAll();
  }
  bytes_ += resident->bytes();
  TrimTo(options_.budget_bytes);
  return resident;
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
  bytes_ -= place->resident->bytes();
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
  TrimTo(options_.budget_bytes);
}

void ResidentPool::Clear() {
  MutexLock lock(&mutex_);
  TrimTo(0);
}

void ResidentPool::TrimTo(int64_t bytes) {
  for (auto it = lru_.begin(); bytes_ > bytes && it != lru_.end();) {
    // Only the pool refers to it, and only through the pool could somebody else come to.
    if (it->resident == nullptr || it->resident.use_count() > 1) {
      ++it;
      continue;
    }
    bytes_ -= it->resident->bytes();
    ++stats_.evictions;
    index_.erase(it->identity);
    it = lru_.erase(it);
  }
}

void ResidentPool::CountError() {
  MutexLock lock(&mutex_);
  ++stats_.store_errors;
}

ResidentPool::Stats ResidentPool::stats() const {
  MutexLock lock(&mutex_);
  Stats stats = stats_;
  stats.bytes = bytes_;
  for (const Entry& entry : lru_) stats.residents += entry.resident != nullptr ? 1 : 0;
  return stats;
}

}  // namespace kvlink::infer
