#include "store/node/data/memory_map.h"

#include "absl/strings/str_cat.h"

namespace kvlink::store {

void MemoryMap::Register(Carrier* carrier, const engine::TierMemory& memory) {
  carrier->buffers.emplace(memory.number, carrier->transport->Register(memory.base, memory.bytes, {}, nullptr));
}

void MemoryMap::AddMemory(const engine::TierMemory& memory) {
  MutexLock lock(&mutex_);
  memories_[memory.number] = memory;
  for (Carrier& carrier : carriers_) Register(&carrier, memory);
}

size_t MemoryMap::AddTransport(transport::Transport* transport) {
  MutexLock lock(&mutex_);
  carriers_.push_back({transport, {}});
  for (const auto& [number, memory] : memories_) Register(&carriers_.back(), memory);
  return carriers_.size() - 1;
}

void MemoryMap::Clear() {
  MutexLock lock(&mutex_);
  carriers_.clear();
}

absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> MemoryMap::Buffer(size_t transport,
                                                                               uint32_t memory) const {
  MutexLock lock(&mutex_);
  if (transport < carriers_.size()) {
    const auto found = carriers_[transport].buffers.find(memory);
    if (found != carriers_[transport].buffers.end()) {
      if (found->second.ok()) return found->second;
      return absl::UnavailableError(
          absl::StrCat("memory of the node cannot be reached this way: ", found->second.status().message()));
    }
  }
  return absl::UnavailableError("memory of the node is not registered");
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
