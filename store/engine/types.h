// Types shared by the engine's interface and its parts: memory of the DRAM tier, namespaces and their limits.
// Thread-safety: plain values.
#ifndef KVLINK_STORE_ENGINE_TYPES_H_
#define KVLINK_STORE_ENGINE_TYPES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace kvlink::engine {

// A piece of memory that encodings in the DRAM tier and pushes lie in. It stays where it is until it goes; which of it
// is backed by memory changes.
struct TierMemory {
  uint32_t number = 0;  // 1, 2, ... in the order of their making; never used again
  std::string ns;       // whose encodings lie in it
  int64_t bytes = 0;
  int descriptor = -1;  // for readers, who can map it and not write it; -1: not shared
};

// A part of a TierMemory that is backed by memory.
struct TierChunk {
  int number = 0;       // below ArenaPool::chunks(); no two chunks that are there share one
  uint32_t memory = 0;  // TierMemory::number
  int64_t offset = 0;   // of its first byte in that memory
  std::byte* data = nullptr;
  int64_t bytes = 0;
};

// Where something lies.
struct Place {
  uint32_t memory = 0;  // TierMemory::number
  int64_t offset = 0;   // of its first byte
};

// What a put does where its name is taken.
enum class PutMode : uint8_t {
  kKeepExisting,        // what is there stays
  kReplaceSmallerEtag,  // for repair: the encoding with the greater etag stays, in whatever order the two come
};

// 0: the engine's own limit.
struct NamespaceSettings {
  // Most bytes of segments that its encodings may occupy, in whole blocks of 64 KiB.
  int64_t capacity_bytes = 0;
  // Most of these that its pinned encodings may occupy. The engine's own is EngineOptions::pinned_bytes, but at most
  // half of the namespace's capacity.
  int64_t pinned_bytes = 0;
  uint64_t revision = 0;  // of these settings, below 2^63; 0: none were ever put
  bool operator==(const NamespaceSettings&) const = default;
};

// Of limits that several nodes keep together, what one of them enforces that has `share` of them, 0 to 1. A limit stays
// one, however small.
inline NamespaceSettings ShareOf(const NamespaceSettings& limits, double share) {
  const auto part = [share](int64_t bytes) {
    if (bytes == 0 || share >= 1) return bytes;
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(bytes) * share));
  };
  return {part(limits.capacity_bytes), part(limits.pinned_bytes), limits.revision};
}

// What is not given stays as it is.
struct NamespaceChange {
  std::optional<int64_t> capacity_bytes, pinned_bytes;
  std::optional<uint64_t> revision;  // not given: the one after that which holds
};

struct NamespaceUse {
  std::string ns;
  int64_t encodings = 0;
  int64_t bytes = 0;
  int64_t pinned_bytes = 0;
  int64_t pinned = 0;  // encodings
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_TYPES_H_
