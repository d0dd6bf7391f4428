// Finds the DRAM tier's memory from the chunks it reported. Thread-safety: all methods.
#ifndef KVLINK_TESTS_STORE_TOLD_MEMORY_H_
#define KVLINK_TESTS_STORE_TOLD_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

#include "base/mutex.h"
#include "store/engine/types.h"

namespace kvlink::testing {

class ToldMemory {
 public:
  // For chunk_ready. Chunks that left stay known, because they come back at the same place.
  void Add(const engine::TierChunk& chunk) {
    MutexLock lock(&mutex_);
    chunks_[{chunk.memory, chunk.offset}] = chunk;
  }
  void Clear() {
    MutexLock lock(&mutex_);
    chunks_.clear();
  }
  // Null: not reported.
  std::byte* At(const engine::Place& place) const {
    MutexLock lock(&mutex_);
    auto next = chunks_.upper_bound({place.memory, place.offset});
    if (next == chunks_.begin()) return nullptr;
    const engine::TierChunk& chunk = (--next)->second;
    const int64_t in_chunk = place.offset - chunk.offset;
    return chunk.memory == place.memory && in_chunk < chunk.bytes ? chunk.data + in_chunk : nullptr;
  }
  // Whether any of it lies in [begin, end).
  bool AnyWithin(uintptr_t begin, uintptr_t end) const {
    MutexLock lock(&mutex_);
    for (const auto& [place, chunk] : chunks_) {
      const uintptr_t data = reinterpret_cast<uintptr_t>(chunk.data);
      if (begin < data + chunk.bytes && end > data) return true;
    }
    return false;
  }

 private:
  mutable Mutex mutex_;
  std::map<std::pair<uint32_t, int64_t>, engine::TierChunk> chunks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_TOLD_MEMORY_H_
