#include "store/node/data/memory_map.h"

#include "absl/strings/str_cat.h"

namespace kvlink::store::node {

const MemoryMap::Buffer& MemoryMap::Register(Carrier* carrier, const Range& range) {
  const auto found = carrier->buffers.find(range);
  if (found != carrier->buffers.end()) return found->second;
  std::byte* const data = chunks_.at({range.memory, range.first}).data;
  return carrier->buffers.emplace(range, carrier->transport->Register(data, range.bytes, {}, nullptr)).first->second;
}

void MemoryMap::AddMemory(const engine::TierMemory& memory) {
  MutexLock lock(&mutex_);
  memories_[memory.number] = memory;
}

void MemoryMap::RemoveMemory(uint32_t memory) {
  MutexLock lock(&mutex_);
  memories_.erase(memory);
}

void MemoryMap::AddChunk(const engine::TierChunk& chunk) {
  MutexLock lock(&mutex_);
  chunks_[{chunk.memory, chunk.offset}] = chunk;
  for (Carrier& carrier : carriers_) Register(&carrier, {chunk.memory, chunk.offset, chunk.bytes});
}

void MemoryMap::RemoveChunk(const engine::TierChunk& chunk) {
  MutexLock lock(&mutex_);
  chunks_.erase({chunk.memory, chunk.offset});
  for (Carrier& carrier : carriers_) {
    std::erase_if(carrier.buffers, [&](const auto& entry) {
      const Range& range = entry.first;
      return range.memory == chunk.memory && range.first < chunk.offset + chunk.bytes &&
             chunk.offset < range.first + range.bytes;
    });
  }
}

size_t MemoryMap::AddTransport(transport::Transport* transport) {
  MutexLock lock(&mutex_);
  carriers_.push_back({transport, {}});
  for (const auto& [name, chunk] : chunks_) Register(&carriers_.back(), {chunk.memory, chunk.offset, chunk.bytes});
  return carriers_.size() - 1;
}

void MemoryMap::Clear() {
  MutexLock lock(&mutex_);
  carriers_.clear();
}

absl::StatusOr<transport::Slice> MemoryMap::Find(size_t transport, const engine::Place& place, int64_t bytes) {
  MutexLock lock(&mutex_);
  Range range = {place.memory, place.offset, 0};
  auto chunk = chunks_.upper_bound({place.memory, place.offset});
  if (chunk != chunks_.begin()) --chunk;
  if (chunk != chunks_.end()) range.first = chunk->first.second;
  for (; chunk != chunks_.end() && range.first + range.bytes < place.offset + bytes; ++chunk) {
    if (chunk->first != std::pair(place.memory, range.first + range.bytes)) break;
    range.bytes += chunk->second.bytes;
  }
  if (transport >= carriers_.size() || range.first > place.offset || range.first + range.bytes < place.offset + bytes) {
    return absl::UnavailableError("the node's memory is not registered");
  }
  const Buffer& buffer = Register(&carriers_[transport], range);
  if (!buffer.ok()) {
    return absl::UnavailableError(
        absl::StrCat("the node's memory cannot be reached this way: ", buffer.status().message()));
  }
  return transport::Slice{*buffer, place.offset - range.first, bytes};
}

std::optional<engine::TierMemory> MemoryMap::Find(uint32_t memory) const {
  MutexLock lock(&mutex_);
  const auto found = memories_.find(memory);
  if (found == memories_.end()) return std::nullopt;
  return found->second;
}

}  // namespace kvlink::store::node
