// The memory of the engine's tier as the carriers know it: registered with each transport chunk by chunk, as chunks
// come and go. A network that was told of memory keeps the pages that were there at that time: one registration for all
// of a piece's address space would pin what is not there yet, and go on using pages that were given back.
//
// A range that spans chunks is registered as a whole when it is first asked for, until the first of its chunks goes.
//
// Thread-safety: all methods. Lifetime: the engine's memory outlives the buffers; Clear() before the engine ends.
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
  // Memory whose chunks will come; and that has none any more.
  void AddMemory(const engine::TierMemory& memory);
  void RemoveMemory(uint32_t memory);
  // A chunk is there, before anything in it is handed out: registers it with every transport.
  void AddChunk(const engine::TierChunk& chunk);
  // Nothing in it is in use any more: no transport knows it when this returns.
  void RemoveChunk(const engine::TierChunk& chunk);
  // Registers the chunks that are there and those that will come. Returns the number to ask Buffer with. The transport
  // outlives Clear().
  size_t AddTransport(transport::Transport* transport);
  void Clear();

  // `bytes` at `place`, which are in use. UNAVAILABLE: that transport cannot reach the memory.
  absl::StatusOr<transport::Slice> Find(size_t transport, const engine::Place& place, int64_t bytes);
  std::optional<engine::TierMemory> Find(uint32_t memory) const;

 private:
  // Whole chunks of one memory: number, first byte, bytes.
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
