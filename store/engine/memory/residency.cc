// How far each layer has arrived, and which callbacks to notify. One lock, never held while a layer is verified or a
// callback runs.
#include "store/engine/memory/residency.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status.h"

namespace kvlink::engine {

Residency::Residency(std::shared_ptr<const Manifest> manifest, std::vector<Pages> pages, GenerationSlot generation,
                     uint64_t number)
    : manifest_(std::move(manifest)), pages_(std::move(pages)), generation_(std::move(generation)), number_(number) {
  if (pages_.empty()) return;  // set later by Borrow and WithoutPages
  if (pages_.front().piece() != nullptr) arena_ = pages_.front().piece()->arena();
  std::vector<absl::Span<std::byte>> slabs;
  const bool whole = pages_.size() == 1;
  size_t next = 0;
  for (const LayerManifest& layer : manifest_->layers) {
    if (layer.length == 0) {
      slabs.emplace_back();
      pieces_.push_back(nullptr);
      continue;
    }
    const Pages& pages = whole ? pages_[0] : pages_[next++];
    slabs.push_back(absl::MakeSpan(pages.data() + (whole ? layer.offset : 0), layer.length));
    pieces_.push_back(pages.piece());
  }
  SetSlabs(slabs);
}

std::shared_ptr<Residency> Residency::Borrow(std::shared_ptr<const Manifest> manifest,
                                             absl::Span<const absl::Span<const std::byte>> slabs) {
  auto residency = std::make_shared<Residency>(std::move(manifest), std::vector<Pages>());
  std::vector<absl::Span<std::byte>> places;
  for (const absl::Span<const std::byte> slab : slabs) {
    // Requests have one address type for reading and writing; these are only read from.
    places.push_back(absl::MakeSpan(const_cast<std::byte*>(slab.data()), slab.size()));
  }
  residency->SetSlabs(places);
  return residency;
}

std::shared_ptr<Residency> Residency::WithoutPages(std::shared_ptr<const Manifest> manifest, const Arena* arena,
                                                   GenerationSlot generation, uint64_t number) {
  auto residency =
      std::make_shared<Residency>(std::move(manifest), std::vector<Pages>(), std::move(generation), number);
  residency->arena_ = arena;
  residency->pieces_.resize(residency->manifest().layers.size());
  std::vector<absl::Span<std::byte>> places;
  for (const LayerManifest& layer : residency->manifest().layers) {
    places.push_back(absl::MakeSpan(static_cast<std::byte*>(nullptr), static_cast<size_t>(layer.length)));
  }
  residency->SetSlabs(places);
  return residency;
}

void Residency::SetPages(int64_t layer, Pages pages) {
  slabs_[layer] = absl::MakeSpan(pages.data(), slabs_[layer].size());
  pieces_[layer] = pages.piece();
  pages_.push_back(std::move(pages));
}

void Residency::SetSlabs(const std::vector<absl::Span<std::byte>>& slabs) {
  slabs_ = slabs;
  MutexLock lock(&mutex_);
  for (const absl::Span<std::byte> slab : slabs) {
    const int64_t length = static_cast<int64_t>(slab.size());
    bytes_ += length;
    missing_.push_back(length);
    states_.push_back(length == 0 ? State::kVerified : State::kAbsent);
  }
}

Place Residency::place(int64_t layer) const {
  const MemoryPiece* const piece = pieces_[layer];
  return piece == nullptr ? Place{} : piece->place(slabs_[layer].data());
}

void Residency::SetVerified(int64_t layer) {
  MutexLock lock(&mutex_);
  missing_[layer] = 0;
  states_[layer] = State::kVerified;
}

void Residency::ReadCompleted(int64_t offset, int64_t length, const absl::Status& status) {
  std::vector<std::pair<LayerReadFunction, absl::Status>> due;
  if (!status.ok()) Fail(/*wrong_bytes=*/false, status);
  {
    MutexLock lock(&mutex_);
    const std::vector<LayerManifest>& layers = manifest_->layers;
    // The first layer that ends after `offset`; offsets ascend.
    auto layer = std::partition_point(layers.begin(), layers.end(),
                                      [offset](const LayerManifest& l) { return l.offset + l.length <= offset; });
    for (; layer != layers.end() && layer->offset < offset + length; ++layer) {
      const size_t index = layer - layers.begin();
      const int64_t overlap =
          std::min(layer->offset + layer->length, offset + length) - std::max(layer->offset, offset);
      if (overlap <= 0) continue;
      missing_[index] -= overlap;
      if (!status.ok()) {
        states_[index] = State::kFailed;
        failure_ = status;
      } else if (missing_[index] == 0 && states_[index] == State::kAbsent) {
        states_[index] = State::kRead;
      }
    }
    size_t kept = 0;
    for (auto& [waiting, arrived] : on_layer_read_) {
      if (states_[waiting] == State::kAbsent) {
        on_layer_read_[kept++] = {waiting, std::move(arrived)};
      } else {
        due.emplace_back(std::move(arrived), ReadStatus(waiting));
      }
    }
    on_layer_read_.resize(kept);
    changed_.SignalAll();
  }
  for (const auto& [arrived, outcome] : due) arrived(outcome);
}

void Residency::Fail(bool wrong_bytes, const absl::Status& why) {
  if (!failed_.exchange(true) && on_failed_) on_failed_(wrong_bytes, why);
}

absl::Status Residency::ReadStatus(int64_t layer) const {
  return states_[layer] == State::kFailed ? failure_ : absl::OkStatus();
}

void Residency::OnLayerRead(int64_t layer, LayerReadFunction arrived) {
  absl::Status outcome;
  {
    MutexLock lock(&mutex_);
    if (layer < 0 || layer >= static_cast<int64_t>(states_.size())) {
      outcome =
          absl::InvalidArgumentError(absl::StrCat("layer ", layer, " of an encoding of ", states_.size(), " layers"));
    } else if (states_[layer] == State::kAbsent) {
      on_layer_read_.emplace_back(layer, std::move(arrived));
      return;
    } else {
      outcome = ReadStatus(layer);
    }
  }
  arrived(outcome);
}

bool Residency::complete() const {
  MutexLock lock(&mutex_);
  for (State state : states_) {
    if (state == State::kAbsent || state == State::kFailed) return false;
  }
  return true;
}

absl::Status Residency::WaitLayer(int64_t layer, absl::Time deadline) {
  {
    MutexLock lock(&mutex_);
    if (layer < 0 || layer >= static_cast<int64_t>(states_.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", layer, " of an encoding of ", states_.size(), " layers"));
    }
    while (states_[layer] == State::kAbsent || states_[layer] == State::kVerifying) {
      if (!changed_.WaitUntil(&mutex_, deadline) &&
          (states_[layer] == State::kAbsent || states_[layer] == State::kVerifying)) {
        return absl::DeadlineExceededError(absl::StrCat("layer ", layer, " has not arrived before the deadline"));
      }
    }
    if (states_[layer] == State::kVerified) return absl::OkStatus();
    if (states_[layer] == State::kFailed) return failure_;
    states_[layer] = State::kVerifying;
  }
  const absl::Status status = manifest_->VerifyLayer(layer, slabs_[layer]);
  if (status.ok()) {
    // No unit's checksum covers the padding.
    const int64_t used = manifest_->shape(layer).used_bytes();
    std::memset(slabs_[layer].data() + used, 0, slabs_[layer].size() - used);
  }
  const absl::Status outcome = status.ok() ? status : absl::DataLossError(status.message());
  if (!outcome.ok()) Fail(/*wrong_bytes=*/true, outcome);
  MutexLock lock(&mutex_);
  states_[layer] = outcome.ok() ? State::kVerified : State::kFailed;
  if (!outcome.ok()) failure_ = outcome;
  changed_.SignalAll();
  return outcome;
}

}  // namespace kvlink::engine
