// The engine's tier memory as the carriers see it: registered with each transport chunk by chunk, as chunks come and
// go. A network registration pins the pages present at that time, so registering a whole piece's address space would
// pin pages that are not present yet, and keep using pages that were given back.
//
// A range that spans chunks is registered as a whole on first use, until the first of its chunks goes.
//
// Thread-safety: all methods. Lifetime: the engine's memory must outlive the buffers; call Clear() before the engine is
// destroyed.
#ifndef KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_
#define KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "store/engine/engine.h"
#include "transport/transport.h"

namespace kvlink::store::node {

class MemoryMap {
 public:
  // AddMemory: memory whose chunks will follow. RemoveMemory: it has no chunks any longer.
  void AddMemory(const engine::TierMemory& memory);
  void RemoveMemory(uint32_t memory);
  // A chunk is present, and nothing in it has been handed out yet: registers it with every transport.
  void AddChunk(const engine::TierChunk& chunk);
  // Nothing in the chunk is in use any longer. When this returns, no transport has it registered.
  void RemoveChunk(const engine::TierChunk& chunk);
  // Registers all present and future chunks with a transport. Returns the number to pass to Find. The transport must
  // outlive Clear().
  size_t AddTransport(transport::Transport* transport);
  void Clear();

  // Returns `bytes` at `place`, which are in use, as a slice. UNAVAILABLE: the transport cannot reach the memory.
  absl::StatusOr<transport::Slice> Find(size_t transport, const engine::Place& place, int64_t bytes);
  std::optional<engine::TierMemory> Find(uint32_t memory) const;

 private:
  // Whole chunks of one memory: its number, the first byte, the length.
  struct Range {
    uint32_t memory;
    int64_t first, bytes;
    auto operator<=>(const Range&) const = default;
  };
  using Buffer = absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>>;
  struct Carrier {
    transport::Transport* transport;
    std::map<Range, Buffer> buffers;
  };
  const Buffer& Register(Carrier* carrier, const Range& range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  std::map<std::pair<uint32_t, int64_t>, engine::TierChunk> chunks_
      ABSL_GUARDED_BY(mutex_);  // by memory and first byte
  std::map<uint32_t, engine::TierMemory> memories_ ABSL_GUARDED_BY(mutex_);
  std::vector<Carrier> carriers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_
