// The memory of the engine's tier as the carriers know it: each piece registered with each transport, as it comes.
//
// Thread-safety: all methods. Lifetime: the engine's memory outlives the buffers; Clear() before the engine ends.
#ifndef KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_
#define KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_

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

namespace kvlink::store {

class MemoryMap {
 public:
  // Of a namespace, before anything in it is handed out.
  void AddMemory(const engine::TierMemory& memory);
  // A piece of it is there, before anything in it is handed out. Registers it with every transport.
  void AddPiece(const engine::TierPiece& piece);
  // Registers what is there and what will come. Returns the number to ask Buffer with. The transport outlives Clear().
  size_t AddTransport(transport::Transport* transport);
  void Clear();

  // A piece as a transport knows it.
  struct Registered {
    std::shared_ptr<transport::RegisteredBuffer> buffer;
    uint32_t memory = 0;
    int64_t first = 0, bytes = 0;  // which bytes of the memory it is

    bool Holds(const engine::Place& place) const {
      return buffer != nullptr && place.memory == memory && place.offset >= first && place.offset < first + bytes;
    }
  };
  // UNAVAILABLE: that transport cannot reach the memory (why not was said when it was registered).
  absl::StatusOr<Registered> Buffer(size_t transport, const engine::Place& place) const;
  std::optional<engine::TierMemory> Find(uint32_t memory) const;
  std::vector<engine::TierMemory> All() const;

 private:
  struct Carrier {
    transport::Transport* transport;
    // Of pieces, by memory and first byte.
    std::map<std::pair<uint32_t, int64_t>, absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>>> buffers;
  };
  static void Register(Carrier* carrier, const engine::TierPiece& piece);

  mutable Mutex mutex_;
  std::map<uint32_t, engine::TierMemory> memories_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<uint32_t, int64_t>, engine::TierPiece> pieces_ ABSL_GUARDED_BY(mutex_);
  std::vector<Carrier> carriers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_
