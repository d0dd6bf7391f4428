// The memory of the engine's tier as the carriers know it: each piece registered with each transport, as it comes.
//
// Thread-safety: all methods. Lifetime: the engine's memory outlives the buffers; Clear() before the engine ends.
#ifndef KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_
#define KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "store/engine/engine.h"
#include "transport/transport.h"

namespace kvlink::store {

class MemoryMap {
 public:
  // A piece of memory is there, before anything in it is handed out. Registers it with every transport.
  void AddMemory(const engine::TierMemory& memory);
  // Registers what is there and what will come. Returns the number to ask Buffer with. The transport outlives Clear().
  size_t AddTransport(transport::Transport* transport);
  void Clear();

  // UNAVAILABLE: that transport cannot reach the memory (why not was said when it was registered).
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> Buffer(size_t transport, uint32_t memory) const;
  std::optional<engine::TierMemory> Find(uint32_t memory) const;
  std::vector<engine::TierMemory> All() const;

 private:
  struct Carrier {
    transport::Transport* transport;
    std::map<uint32_t, absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>>> buffers;
  };
  static void Register(Carrier* carrier, const engine::TierMemory& memory);

  mutable Mutex mutex_;
  std::map<uint32_t, engine::TierMemory> memories_ ABSL_GUARDED_BY(mutex_);
  std::vector<Carrier> carriers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_NODE_DATA_MEMORY_MAP_H_
