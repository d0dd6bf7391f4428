#include "store/node/data/memory_map.h"

#include "absl/strings/str_cat.h"

namespace kvlink::store {

void MemoryMap::Register(Carrier* carrier, const engine::TierPiece& piece) {
  carrier->buffers.emplace(std::pair(piece.memory, piece.offset),
                           carrier->transport->Register(piece.data, piece.bytes, {}, nullptr));
}

void MemoryMap::AddMemory(const engine::TierMemory& memory) {
  MutexLock lock(&mutex_);
  memories_[memory.number] = memory;
}

void MemoryMap::AddPiece(const engine::TierPiece& piece) {
  MutexLock lock(&mutex_);
  pieces_[{piece.memory, piece.offset}] = piece;
  for (Carrier& carrier : carriers_) Register(&carrier, piece);
}

size_t MemoryMap::AddTransport(transport::Transport* transport) {
  MutexLock lock(&mutex_);
  carriers_.push_back({transport, {}});
  for (const auto& [name, piece] : pieces_) Register(&carriers_.back(), piece);
  return carriers_.size() - 1;
}

void MemoryMap::Clear() {
  MutexLock lock(&mutex_);
  carriers_.clear();
}

absl::StatusOr<MemoryMap::Registered> MemoryMap::Buffer(size_t transport, const engine::Place& place) const {
  MutexLock lock(&mutex_);
  // The last piece that begins no later.
  auto piece = pieces_.upper_bound({place.memory, place.offset});
  if (piece == pieces_.begin() || transport >= carriers_.size()) {
    return absl::UnavailableError("memory of the node is not registered");
  }
  --piece;
  const auto found = carriers_[transport].buffers.find(piece->first);
  if (found == carriers_[transport].buffers.end() || piece->second.memory != place.memory) {
    return absl::UnavailableError("memory of the node is not registered");
  }
  if (!found->second.ok()) {
    return absl::UnavailableError(
        absl::StrCat("memory of the node cannot be reached this way: ", found->second.status().message()));
  }
  return Registered{*found->second, place.memory, piece->second.offset, piece->second.bytes};
}

std::optional<engine::TierMemory> MemoryMap::Find(uint32_t memory) const {
  MutexLock lock(&mutex_);
  const auto found = memories_.find(memory);
  if (found == memories_.end()) return std::nullopt;
  return found->second;
}

std::vector<engine::TierMemory> MemoryMap::All() const {
  MutexLock lock(&mutex_);
  std::vector<engine::TierMemory> all;
  for (const auto& [number, memory] : memories_) all.push_back(memory);
  return all;
}

}  // namespace kvlink::store
